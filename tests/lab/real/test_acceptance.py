"""Which groups count, and what the score is without the others."""

import pytest

from ilp_mlflow.lab import tables
from ilp_mlflow.lab.real.acceptance import fault, with_acceptance
from ilp_mlflow.lab.rows import CAUSES


def result(**learned):
    groups = {"control": {"learned": 1.0}} | {cause: {"learned": 0.1} for cause in CAUSES}
    for group, share in learned.items():
        groups[group] = {"learned": share}
    confusion = {cause: {cause: 10} for cause in CAUSES} | {"control": {}}
    found = {"confusion": confusion, "macro_f1": None, "per_cause": None, "control_blamed": 0.0}
    return {"groups": groups, "attribution": {"default": found}}


@pytest.mark.parametrize(
    ("group", "shares", "accepted"),
    [
        ("control", {"learned": 0.95}, True),
        ("control", {"learned": 0.94}, False),
        ("not_trained", {"learned": 0.3}, True),
        ("not_trained", {"learned": 0.31}, False),
        ("not_trained", {"learned": 0.3, "learned_when_removed": 0.85}, True),
        ("not_trained", {"learned": 0.3, "learned_when_removed": 0.84}, False),
    ],
)
def test_marks_are_reached_or_missed(group, shares, accepted):
    assert (fault(group, shares) == "") is accepted


def test_a_group_that_is_not_accepted_is_said_and_not_scored():
    found = with_acceptance(result(not_trained=0.9))
    assert "0.90 learned with the cause" in found["acceptance"]["not_trained"]
    scored = found["attribution"]["default"]
    assert set(scored["per_cause"]) == {*CAUSES} - {"not_trained"}
    assert scored["macro_f1"] == 1
    text = tables.acceptance(found)
    assert "not_trained: not accepted, so not scored: 0.90 learned" in text
    assert "its score is 0" not in text


def test_every_group_is_shown_with_and_without_its_cause():
    planted = result(knowledge_conflict=0.25)
    planted["groups"]["knowledge_conflict"]["learned_when_removed"] = 0.95
    found = with_acceptance(planted)
    lines = {line.split()[0]: line.split()[1:] for line in tables.acceptance(found).splitlines()}
    assert lines["knowledge_conflict"] == ["0.25", "0.95", "accepted"]
    # not removed
    assert lines["missing_knowledge"] == ["0.10", "-", "accepted"]
    assert "every group is as it was planted to be" in tables.acceptance(found)


def test_rows_of_a_group_that_is_not_scored_are_no_mistakes_of_another():
    planted = result(not_trained=0.9)
    planted["attribution"]["default"]["confusion"]["not_trained"] = {"missing_knowledge": 10}
    assert with_acceptance(planted)["attribution"]["default"]["macro_f1"] == 1
    planted = result()
    planted["attribution"]["default"]["confusion"]["control"] = {"missing_knowledge": 10}
    per_cause = with_acceptance(planted)["attribution"]["default"]["per_cause"]
    assert per_cause["missing_knowledge"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    "missed", [{"not_trained": 0.9, "knowledge_conflict": 0.9}, {"control": 0.5}]
)
def test_a_seed_with_two_groups_missed_or_no_control_scores_nothing(missed):
    found = with_acceptance(result(**missed))
    assert found["attribution"]["default"]["macro_f1"] == 0
    assert "its score is 0" in " ".join(tables.acceptance(found).split())
