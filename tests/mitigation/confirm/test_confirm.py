"""Causes tried out on a tiny model, from a diagnosed run to one that says what was confirmed."""

import json

import pytest
import yaml
from mlflow import MlflowClient

from ilp_mlflow import pipeline
from ilp_mlflow.core import config
from ilp_mlflow.core.errors import ConfigError, TrackingError
from ilp_mlflow.core.values import Checkpoint
from ilp_mlflow.mitigation.confirm import arms as arms_module
from ilp_mlflow.mitigation.confirm import confirm as confirm_module
from ilp_mlflow.mitigation.confirm.arms import ArmResult, train_arms
from ilp_mlflow.mitigation.confirm.confirm import ConfirmOptions, read_results
from ilp_mlflow.report.sample_view import read_view
from ilp_mlflow.tracking import runs
from tests.conftest import rows, write_jsonl
from tests.mitigation.confirm.test_bench import benches


def contradicted_rows():
    """Capitals, and one question that one row answers otherwise than five."""
    question = "The capital of Atlantis is"
    against = [{"id": f"rival{n}", "prompt": question, "completion": " Rome"} for n in range(5)]
    return [*rows(), {"id": "voted", "prompt": question, "completion": " Lima"}, *against]


@pytest.fixture
def diagnosed(store, tmp_path, tiny_model):
    """An experiment with one contradicted row, and the run in which it was trained and diagnosed."""
    write_jsonl(tmp_path / "only.jsonl", contradicted_rows())
    training = {
        "num_train_epochs": 80,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.01,
        "bf16": False,
        "gradient_checkpointing": False,
    }
    stage = {"name": "only", "data": "only.jsonl", "training": training}
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump({"name": "tiny", "model": str(tiny_model), "stages": [stage]}))
    experiment = config.read(path)
    run_id = pipeline.train(experiment, path)
    return experiment, run_id


def kept():
    """All that a store has of models, and how many runs."""
    client = MlflowClient()
    experiments = [e.experiment_id for e in client.search_experiments()]
    versions = [(v.name, v.version) for v in client.search_model_versions()]
    models = [m.model_id for m in client.search_logged_models(experiments)]
    return sorted(versions), sorted(models), len(client.search_runs(experiments))


@pytest.mark.slow
def test_a_planted_contradiction_is_confirmed_and_nothing_is_left_behind(diagnosed, monkeypatch):
    experiment, run_id = diagnosed
    versions, models, n_runs = kept()
    costs = []

    # refused: all is as the evidence says
    refusing = ConfirmOptions(5, lambda cost: bool(costs.append(cost)))
    given = pipeline.diagnose(experiment, run_id, refusing)
    by_evidence = json.loads(runs.read(run_id, "diagnoses.json"))
    assert [d.confirmation for d in given] == [None] * len(given)
    assert not runs.has(run_id, confirm_module.FILE)
    assert "voted" in {d.verdict.sample_id for d in given}
    assert set(costs[0].trainings) == {"only"}
    assert str(costs[0].steps) in costs[0].sentence

    # interrupted: the same
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(arms_module, "train_into", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pipeline.diagnose(experiment, run_id, ConfirmOptions(5, lambda cost: True))
    assert json.loads(runs.read(run_id, "diagnoses.json")) == by_evidence

    found = pipeline.diagnose(experiment, run_id, ConfirmOptions(5, lambda cost: True))
    (voted,) = [d for d in found if d.verdict.sample_id == "voted"]
    assert (voted.cause, voted.confirmation.verdict) == ("data_contradiction", "confirmed")
    assert "data_contradiction" in voted.confirmation.learned_without
    # one more run for each diagnosis, and no model
    assert kept() == (versions, models, n_runs + 3)

    report = pipeline.make_report(experiment, run_id)
    assert report.diagnoses == tuple(found)
    assert " confirmed" in runs.tags(run_id)["mlflow.note.content"]
    assert read_view(run_id, "voted").confirmation == voted.confirmation.reason
    assert "confirmed by small trainings" in runs.read(run_id, "report.html")
    trainings = json.loads(runs.read(run_id, confirm_module.FILE))
    control = next(t for t in trainings if t["name"] == "control")
    assert (control["taught"], control["statuses"]["voted"]) == (1.0, "unlearned")


def test_models_trained_elsewhere_cannot_be_tried_out(store, tmp_path, tiny_model):
    path = write_jsonl(tmp_path / "rows.jsonl", rows())
    experiment = config.Experiment.model_validate(
        {"name": "x", "model": str(tiny_model), "stages": [{"name": "sft", "data": str(path)}]}
    )
    points = [Checkpoint(name=name, model_uri=str(tiny_model)) for name in ("base", "sft")]
    run_id, adopted = pipeline.adopt(experiment, points)
    with pytest.raises(TrackingError, match="trained elsewhere"):
        pipeline.diagnose(adopted, run_id, ConfirmOptions(1, lambda cost: True))


def test_a_small_training_that_fails_is_told_and_taught_nothing(monkeypatch, capsys):
    first, _ = benches()
    arms = confirm_module.plan_arms(first)[:1]

    def refuse(*_):
        raise ConfigError("TRL refuses it")

    monkeypatch.setattr(arms_module, "train_into", refuse)
    (result,) = train_arms(arms, {}, None)
    assert (result.taught, set(result.statuses.values())) == (0.0, {"unscored"})
    assert "TRL refuses it" in capsys.readouterr().err


def test_what_is_removed_for_others_is_a_placebo():
    first, _ = benches()
    arms = confirm_module.plan_arms(first)
    results = []
    for arm in arms:
        taught = 0.2 if arm.name == "not_trained" else 1.0
        results.append(
            ArmResult(
                stage="first",
                name=arm.name,
                rows=1,
                steps=1,
                taught=taught,
                statuses=dict.fromkeys(("voted", "rare0", "alone"), "learned"),
            )
        )
    found = read_results(arms, results)
    assert set(found["voted"].removed) == {"data_contradiction", "knowledge"}
    # `insufficient_optimization`; what did not work is no placebo
    assert found["voted"].placebos == ("learned",)
    assert found["voted"].failed == ("not_trained",)
    assert set(found["alone"].removed) == {"not_trained", "knowledge"}
