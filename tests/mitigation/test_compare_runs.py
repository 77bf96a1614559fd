"""Two runs side by side: with scores made by hand, and of a model that was really trained again."""

import json
import math
import random
import re

import pytest

from ilp_mlflow.core import config
from ilp_mlflow.core.values import Checkpoint, Score, Verdict, as_json
from ilp_mlflow.mitigation.compare_runs import Comparison, regression_fault, transitions
from ilp_mlflow.tracking import runs
from tests.cli.commands import ilp
from tests.conftest import edit_yaml
from tests.scoring.verdicts.judged_scores import judged

NOT_A_NUMBER = "the model's output is not a number"
GAPS = {"learned": 5.0, "unlearned": -5.0, "uncertain": 0.0, "unscored": math.nan}
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


def compared(before, after):
    """Runs with these statuses, by id, side by side."""
    sides = []
    for statuses in (before, after):
        verdicts = {}
        for sample_id, status in statuses.items():
            reason = NOT_A_NUMBER if status == "unscored" else ""
            verdicts[sample_id] = Verdict(sample_id=sample_id, status=status, reason=reason)
        sides.append(verdicts)
    return Comparison(*sides)


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        ("learned", "learned", ""),
        ("learned", "uncertain", ""),
        ("unscored", "unscored", ""),  # too long for both
        ("unscored", "learned", ""),
        ("unscored", "uncertain", ""),
        ("learned", "unscored", f"1 sample is unscored in B (such as 'x': {NOT_A_NUMBER})"),
        ("unlearned", "unscored", f"1 sample is unscored in B (such as 'x': {NOT_A_NUMBER})"),
        ("unscored", "unlearned", f"1 sample is unscored in A (such as 'x': {NOT_A_NUMBER})"),
        ("learned", None, "1 samples regressed (1 of them, such as 'x', are only in A)"),
        ("unlearned", None, ""),
        (None, "unlearned", ""),
    ],
)
def test_the_gate_on_regressed_samples_by_what_became_of_one(before, after, fault):
    sides = []
    for status in (before, after):
        sides.append({"fine": "learned"} | ({"x": status} if status else {}))
    found = regression_fault(compared(*sides), 0)
    assert found.startswith(fault)
    assert bool(found) == bool(fault)


def test_where_nothing_is_scored_in_both_the_gate_fails():
    nothing = dict.fromkeys("ab", "unscored")
    for sides in ((nothing, nothing), ({"a": "learned"}, {"b": "learned"}), ({}, {})):
        assert "no sample is scored in both runs" in regression_fault(compared(*sides), 5)


@pytest.mark.parametrize("seed", range(10))
def test_to_lose_a_score_or_a_sample_never_opens_the_gate_on_regressed_ones(seed):
    rng = random.Random(seed)
    ids = "abcdefgh"
    opened = 0
    for _ in range(300):
        sides = []
        for weights in ((8, 4, 1, 1), (8, 4, 1, 1)):
            statuses = rng.choices(("learned", "unlearned", "uncertain", "unscored"), weights, k=8)
            sides.append(dict(zip(ids, statuses, strict=True)))
        limit = rng.choice((0, 1, 3, 0.2, 0.5))
        opened += not regression_fault(compared(*sides), limit)
        if not regression_fault(compared(*sides), limit):
            continue
        side, victim = rng.randrange(2), rng.choice(ids)
        was = sides[side][victim]
        sides[side][victim] = "unscored"
        # scored in neither: that one could as well be a row that is too long
        if sides[1 - side][victim] != "unscored":
            assert regression_fault(compared(*sides), limit), (side, victim)
        sides[side][victim] = was
        # what is unscored in B fails the gate itself
        if sides[0][victim] != "unscored" and sides[1].pop(victim) != "unscored":
            assert regression_fault(compared(*sides), limit), victim
    assert opened


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
            runs.write(run_id, "judgements.parquet", judged(scores, ["base", "second"]))
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


def test_a_score_that_is_no_number_ends_with_1_and_the_reason(diagnosed):
    before = diagnosed("before", a="learned", b="learned", c="unlearned", d="learned")
    after = diagnosed("after", a="learned", b="unscored", c="unscored")
    code, out, err = ilp("compare", before, after)
    assert (code, err) == (0, "")
    assert re.search(r"\nunscored +2 +b, c\n", out)
    assert re.search(r"\nonly in A +1 +d\n", out)
    assert f"unscored in B: such as 'b': {NOT_A_NUMBER}" in out
    for limit in ("0", "0.99", "5"):
        code, out, err = ilp("compare", before, after, "--max-regressed", limit)
        assert code == 1
        assert err == (
            f"ilp: 2 samples are unscored in B (such as 'b': {NOT_A_NUMBER}); "
            "--max-regressed cannot be met\n"
        )
    document = json.loads(ilp("compare", before, after, "--json")[1])
    assert document["unscored"] == ["b", "c"]
    assert document["recovered"] == document["regressed"] == document["unscored_in_a"] == []
    assert document["unscored_in_b"] == [{"samples": 2, "reason": NOT_A_NUMBER, "example": "b"}]


def test_a_sample_that_only_the_first_run_has_is_not_kept(diagnosed):
    before = diagnosed("before", a="learned", b="learned", c="unlearned")
    after = diagnosed("after", a="learned")
    assert ilp("compare", before, after, "--max-regressed", "1")[0] == 0
    code, _, err = ilp("compare", before, after, "--max-regressed", "0")
    assert code == 1
    assert "1 samples regressed (1 of them, such as 'b', are only in A), more than" in err


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


@pytest.mark.long
def test_runs_that_are_judged_by_different_rules_are_not_compared(experiment_file, store):
    reports = []
    for preset in ("default", "paper"):
        file = edit_yaml(experiment_file, name=preset, scoring={"preset": preset})
        reports.append(json.loads(ilp("run", file, "--json")[1]))
    code, _, err = ilp("compare", reports[0]["run_id"], reports[1]["run_id"])
    assert code == 2
    assert re.search(r"is judged by the rule 'greedy' in A and by 'paper' in B; diagnose one", err)
