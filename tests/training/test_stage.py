"""A stage that was interrupted is taken up again, and only that very stage."""

import pytest

from ilp_mlflow import pipeline
from ilp_mlflow.core import cache, config
from ilp_mlflow.tracking import runs
from ilp_mlflow.training import resume
from tests.conftest import edit_yaml, rows, write_jsonl


def saved_trainings():
    folder = cache.folder() / "training"
    return [p for p in folder.glob("*") if p.is_dir()] if folder.exists() else []


@pytest.fixture
def interrupted(experiment_file, store, monkeypatch):
    """An experiment whose first stage was interrupted in its second epoch; and the steps that are logged from then on."""
    monkeypatch.setattr(resume, "SAVE_EVERY", 0)
    training = config.read(experiment_file).stages[0].training | {
        "logging_steps": 1,
        "num_train_epochs": 3,
    }
    stages = [
        {
            "name": "first",
            "data": "first.jsonl",
            "training": training,
            "peft": {"r": 4, "target_modules": "all-linear"},
        }
    ]
    edit_yaml(experiment_file, stages=stages)
    original, steps = runs.log, []

    def log(run_id, **what):
        step = what.get("step", 0)
        if "first/loss" in (what.get("metrics") or {}):
            steps.append(step)
            if step == 3 and not interrupted_before:
                interrupted_before.append(True)
                raise KeyboardInterrupt
        return original(run_id, **what)

    interrupted_before = []
    monkeypatch.setattr(runs, "log", log)
    with pytest.raises(KeyboardInterrupt):
        pipeline.train(config.read(experiment_file), experiment_file)
    assert steps == [1, 2, 3]
    assert len(saved_trainings()) == 1
    steps.clear()
    return experiment_file, steps


def test_the_same_stage_goes_on_and_leaves_nothing_behind(interrupted, caplog):
    file, steps = interrupted
    run_id = pipeline.train(config.read(file), file)
    assert "stage 'first' goes on behind step 2" in caplog.text
    assert steps == [3, 4, 5, 6]  # two steps an epoch: the first epoch was saved
    assert saved_trainings() == []
    seen = runs.read_table(run_id, "exposures.parquet")["exposures"].to_pylist()
    assert seen == [3] * 8


@pytest.mark.long
@pytest.mark.parametrize("change", ["data", "seed", "score_every"])
def test_another_stage_begins_at_its_beginning(interrupted, change, tmp_path):
    file, steps = interrupted
    if change == "data":
        write_jsonl(tmp_path / "first.jsonl", rows(prefix="other "))
    elif change == "seed":
        edit_yaml(file, seed=5)
    else:
        stage = config.read(file).stages[0].model_dump(exclude_defaults=True)
        edit_yaml(file, stages=[{**stage, "score_every": 4}])
    pipeline.train(config.read(file), file)
    assert steps[:3] == [1, 2, 3]
