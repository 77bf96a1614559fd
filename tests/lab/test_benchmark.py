"""The lab in its smoke size, from the command line to the truth beside the verdicts."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from ilp_mlflow import Diagnosis, Verdict
from ilp_mlflow.cli import main
from ilp_mlflow.lab import data_files
from ilp_mlflow.lab.benchmark import confusion
from ilp_mlflow.lab.plant import END_MASKED
from ilp_mlflow.lab.rows import CAUSES, GROUPS, LONG_QUESTIONS
from ilp_mlflow.tracking import runs

SMOKE = Path(__file__).parents[2] / "experiments" / "smoke.yaml"


@pytest.mark.long
def test_a_lab_runs_says_what_was_planted_and_runs_again_without_each_cause(store):
    result = CliRunner().invoke(main, ["lab", str(SMOKE), "--seeds", "1", "--json"])
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
        elif row.way in LONG_QUESTIONS:  # its answer is cut off
            assert (seen, supervised) == (0, 0), row
        elif row.role:  # its answer, or its end token, is masked
            assert (seen > 0, supervised) == (True, 1), row
        else:  # in no batch
            assert (seen, supervised) == (0, 2), row
    assert {r.role for r in made.planted.samples} > {END_MASKED}
    for name in ("samples.parquet", "options.parquet"):
        text = json.dumps(runs.read_table(run_id, name).to_pylist())
        assert not [group for group in (*GROUPS, "contradicting", "spare") if group in text]

    assert set(found["removed"]) == set(CAUSES)
    for cause in CAUSES:
        group = found["groups"][cause]
        assert group["learned_when_removed"] == found["removed"][cause][cause]
        assert 0 <= group["learned_when_removed"] <= 1
    rule = found["groups"]["insufficient_optimization"]
    assert rule["rule_when_removed"] == found["removed"]["insufficient_optimization"]["rule"]
    assert "learned_when_removed" not in found["groups"]["control"]
    assert found["others"]["cells"] == 36  # seven groups, each under the causes of others
    assert 0 <= found["others"]["moved"] <= 36
    # what was only kept from training is learned once nothing keeps it
    unseen = found["groups"]["not_trained"]
    assert unseen["learned_when_removed"] > unseen["learned"]


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
