"""Two runs side by side: with scores made by hand, and of a model that was really trained again."""

import json
import re

import pytest

from ilp_mlflow.core import config
from ilp_mlflow.core.values import Checkpoint, Score, as_json, to_table
from ilp_mlflow.mitigation.compare_runs import transitions
from ilp_mlflow.tracking import runs
from tests.cli.commands import ilp
from tests.conftest import edit_yaml

GAPS = {"learned": 5.0, "unlearned": -5.0, "uncertain": 0.0}
"""A score's `gap`, nats, that makes its sample so."""


def test_every_sample_of_two_runs_is_in_one_place():
    before = {
        "a": "unlearned",
        "b": "learned",
        "c": "unlearned",
        "d": "learned",
        "e": "learned",
        "f": "unscored",
        "g": "learned",
    }
    after = {
        "a": "learned",
        "b": "unlearned",
        "c": "unlearned",
        "d": "learned",
        "e": "uncertain",
        "f": "learned",
        "h": "learned",
    }
    ids = transitions(before, after)
    assert ids == {
        "recovered": ["a"],
        "regressed": ["b"],
        "still": ["c"],
        "kept": ["d"],
        "flickering": ["e"],
        "unscored": ["f"],
        "only_before": ["g"],
        "only_after": ["h"],
    }


@pytest.fixture
def diagnosed(experiment_file, store):
    """Makes a diagnosed run of samples with these statuses (by id); returns its id."""
    experiment = config.read(experiment_file)

    def make(name, **statuses):
        scores = []
        for sample_id, status in statuses.items():
            gap = GAPS[status]
            scores.append(Score(sample_id=sample_id, checkpoint="second", tokens=3, gap=gap))
        with runs.start(name, "experiment") as run_id:
            runs.write(run_id, "experiment.yaml", config.dump(experiment))
            checkpoints = [Checkpoint(name=n, model_uri="u") for n in ("base", "second")]
            runs.write(run_id, "checkpoints.json", as_json(checkpoints))
            runs.write(run_id, "scores.parquet", to_table(scores, Score))
        return run_id

    return make


@pytest.fixture
def two_runs(diagnosed):
    """Two runs, from the first to the second of which one sample recovers and two of four regress."""
    before = diagnosed(
        "before", a="unlearned", b="learned", c="learned", d="learned", e="learned", f="uncertain"
    )
    after = diagnosed(
        "after", a="learned", b="unlearned", c="unlearned", d="learned", e="learned", f="learned"
    )
    return before, after


def test_samples_that_recovered_and_regressed_are_named_in_both_directions(two_runs):
    before, after = two_runs
    code, out, err = ilp("compare", before, after, "--json")
    assert code == 0, err
    comparison = json.loads(out)
    assert comparison.pop("p_value") == 1  # two of three discordant samples one way
    assert {name: ids for name, ids in comparison.items() if ids} == {
        "recovered": ["a"],
        "regressed": ["b", "c"],
        "kept": ["d", "e"],
        "flickering": ["f"],
    }
    back = json.loads(ilp("compare", after, before, "--json")[1])
    assert (back["recovered"], back["regressed"]) == (["b", "c"], ["a"])


def test_regressed_samples_beyond_a_limit_end_with_1(two_runs):
    before, after = two_runs
    code, out, err = ilp("compare", before, after, "--max-regressed", "0")
    assert code == 1
    assert "2 samples regressed, more than --max-regressed 0" in err
    assert re.match(rf"from: \S.* \({before}\)\nto  : \S.*\({after}\)\n\nrecovered ", out)
    exit_codes = {
        limit: ilp("compare", before, after, "--max-regressed", limit)[0]
        for limit in ("1", "2", "0.49", "0.5")
    }
    assert exit_codes == {"1": 1, "2": 0, "0.49": 1, "0.5": 0}  # a share is of the learned ones


def test_runs_without_a_sample_in_common_are_not_compared(diagnosed):
    code, out, err = ilp("compare", diagnosed("one", a="learned"), diagnosed("other", b="learned"))
    assert (code, out) == (2, "")
    assert "have no sample in common" in err


@pytest.mark.slow
def test_what_a_mitigation_did_is_what_compares_its_run_with_the_experiment(experiment_file, store):
    first = json.loads(ilp("run", edit_yaml(experiment_file, mitigations=["control"]), "--json")[1])
    again = first["outcomes"][0]["run_id"]

    code, out, err = ilp(
        "compare", first["run_id"], first["run_id"], "--json", "--max-regressed", "0"
    )
    assert code == 0, err
    same = json.loads(out)
    assert same["recovered"] == same["regressed"] == []
    assert sum(map(len, (same[n] for n in ("still", "kept", "flickering")))) == 16
    assert same["p_value"] == 1

    code, out, err = ilp("compare", first["run_id"], again, "--json")
    comparison = json.loads(out)
    assert sorted(comparison["recovered"]) == sorted(first["outcomes"][0]["recovered"])
    assert sorted(comparison["regressed"]) == sorted(first["outcomes"][0]["regressed"])
    back = json.loads(ilp("compare", again, first["run_id"], "--json")[1])
    assert sorted(back["regressed"]) == sorted(comparison["recovered"])

    code, out, err = ilp("compare", first["run_id"], "nothing")
    assert (code, out) == (2, "")
    assert "nothing" in err


@pytest.mark.slow
def test_two_rules_are_no_difference_between_models(experiment_file, store):
    reports = []
    for preset in ("default", "paper"):
        file = edit_yaml(experiment_file, name=preset, scoring={"preset": preset})
        reports.append(json.loads(ilp("run", file, "--json")[1]))
    statuses = [{v["sample_id"]: v["status"] for v in report["verdicts"]} for report in reports]
    assert statuses[0] != statuses[1]  # the same training
    for first, second in (reports, reports[::-1]):
        code, out, err = ilp("compare", first["run_id"], second["run_id"], "--json")
        assert code == 0, err
        comparison = json.loads(out)
        assert comparison["recovered"] == comparison["regressed"] == comparison["flickering"] == []
