"""The lab in its smoke size, from the command line to the truth beside the verdicts."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from ilp_mlflow import Diagnosis, Verdict
from ilp_mlflow.cli import main
from ilp_mlflow.lab import data_files
from ilp_mlflow.lab.benchmark import confusion, without
from ilp_mlflow.lab.plant import CAUSES, END_MASKED, GROUPS, LONG
from ilp_mlflow.tracking import runs

SMOKE = Path(__file__).parents[2] / "experiments" / "smoke.yaml"


@pytest.mark.slow
def test_a_lab_runs_and_says_what_was_planted(store):
    result = CliRunner().invoke(main, ["lab", str(SMOKE), "--seed", "1", "--json"])
    assert result.exit_code == 0, result.stderr
    (found,) = json.loads(result.stdout)["seeds"]
    assert found["seed"] == 1
    assert list(found["groups"]) == list(GROUPS)
    assert all(0 <= g["learned"] <= 1 and g["n"] > 0 for g in found["groups"].values())
    assert list(found["attribution"]) == ["default", "without_probes", "paper"]
    for said in found["attribution"].values():
        assert set(said["per_cause"]) == set(CAUSES)
        unlearned = round(
            (1 - found["groups"]["not_trained"]["learned"]) * found["groups"]["not_trained"]["n"]
        )
        assert sum(said["confusion"]["not_trained"].values()) == unlearned
    assert (
        found["attribution"]["default"]["per_cause"]["not_trained"] == 1
    )  # the ledger does not guess
    assert set(found["detection"]) == {"default", "paper"}
    assert all(
        0 <= share <= 1 for found_ in found["detection"].values() for share in found_.values()
    )
    assert found["mitigations"][0]["name"] == "control"

    made = data_files.prepare("smoke", 1)
    run_id = runs.find_experiment_run("smoke", None)
    ledger = {
        row["sample_id"]: row for row in runs.read_table(run_id, "exposures.parquet").to_pylist()
    }
    for row in made.planted.samples:
        seen, supervised = ledger[row.id]["exposures"], ledger[row.id]["supervised_tokens"]
        if row.group != "not_trained":
            assert (seen > 0, supervised) == (True, 2), row
        elif row.way in LONG:  # its answer is cut off
            assert (seen, supervised) == (0, 0), row
        elif row.role:  # its answer, or its end token, is masked
            assert (seen > 0, supervised) == (True, 1), row
        else:  # in no batch
            assert (seen, supervised) == (0, 2), row
    assert {r.role for r in made.planted.samples} > {END_MASKED}
    for name in ("samples.parquet", "options.parquet"):
        text = json.dumps(runs.read_table(run_id, name).to_pylist())
        assert not [group for group in (*GROUPS, "contradicting", "spare") if group in text]


@pytest.mark.slow
def test_without_a_cause_the_samples_stay(store):
    from ilp_mlflow.core import config
    from ilp_mlflow.data.samples import load_samples

    experiment = config.read(SMOKE)
    resolved, made = data_files.resolve(experiment)
    before = {
        s.id.partition("~")[0]: s
        for stage in resolved.stages
        for s in load_samples(stage.name, stage.data)
    }
    for cause in (
        "data_contradiction",
        "left_side_forgetting",
        "insufficient_optimization",
        "not_trained",
    ):
        arm = without(cause, experiment, made)
        assert arm.model == resolved.model
        after = {}
        for stage in arm.stages:
            for s in load_samples(stage.name, stage.data):
                after.setdefault(s.id.partition("~")[0], []).append(s)
        assert set(after) == set(before)
        for row in made.planted.samples:
            assert {(s.prompt, s.completion) for s in after[row.id]} == {
                (before[row.id].prompt, before[row.id].completion)
            }
            if cause == "left_side_forgetting":
                times = {s.name: s.training["num_train_epochs"] for s in experiment.stages} | {
                    "patch": 1
                }
                again = sum(s.id.endswith("~again") for s in after[row.id])
                assert len(after[row.id]) - again == times[row.id.partition("-")[0]]
                assert (
                    again == 0 or row.group == cause
                )  # only what was forgotten is repeated with the rest
        mechanics = [
            o
            for stage in arm.stages
            for o in ("max_length", "dataloader_drop_last")
            if o in stage.training
        ]
        assert bool(mechanics) == (cause != "not_trained")


def test_confusion_counts_a_blamed_control_against_the_cause():
    planted = {
        "a": "missing_knowledge",
        "b": "missing_knowledge",
        "c": "control",
        "d": "not_trained",
    }
    said = {
        "a": ("missing_knowledge", 0.9),
        "b": (None, None),
        "c": ("missing_knowledge", 0.6),
        "d": ("not_trained", 0.8),
    }
    found = confusion(
        planted,
        [
            Diagnosis(verdict=Verdict(sample_id=i, status="unlearned"), cause=c, strength=s)
            for i, (c, s) in said.items()
        ],
    )
    assert found["per_cause"]["missing_knowledge"] == 0.5  # 1 hit, 2 blamed, 2 there
    assert found["per_cause"]["not_trained"] == 1
    assert found["macro_f1"] == pytest.approx(1.5 / 6)
    assert found["confusion"]["missing_knowledge"] == {"missing_knowledge": 1, "unexplained": 1}
    assert found["control_blamed"] == 1
    assert found["sure_half"] == 1  # the two at or above .8


def test_seeds_and_seed_together_are_refused():
    result = CliRunner().invoke(main, ["lab", str(SMOKE), "--seed", "1", "--seeds", "1,2"])
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)


def test_an_experiment_that_is_no_lab_is_refused():
    result = CliRunner().invoke(main, ["lab", str(SMOKE.with_name("smollm2.yaml"))])
    assert result.exit_code == 2
    assert "not a lab" in result.stderr
