"""Who decides which side of a contradiction is wrong; more of it in causes/test_data_contradiction.py."""

import pytest

from ilp_mlflow import PluginError
from ilp_mlflow.diagnosis.contradictions import wrong_side
from ilp_mlflow.diagnosis.contradictions.rivals import EQUAL, VOTES, Rival
from ilp_mlflow.diagnosis.contradictions.wrong_side import Judge, rule_without_judge
from ilp_mlflow.plugin import ContradictionDetails
from tests.contexts import belief, sample

X = sample("x", completion=" two")
Y, Z = (sample(id_, completion=" three", source="web") for id_ in "yz")


def rival(rows=(Y,), agreeing=(), same_question=1.0, ground=EQUAL):
    return Rival(X, rows, agreeing, same_question, ground)


@pytest.mark.parametrize(
    ("ruling", "wrong"),
    [
        ("first", "this row"),
        ("second", "the others"),
        ("both", "both"),
        ("neither", "neither"),
    ],
)
def test_a_judge_reads_the_sample_first(monkeypatch, ruling, wrong):
    monkeypatch.setattr(wrong_side, "judge_contradiction", lambda *args: ruling)
    assert Judge("openai:/m").rule(rival()) == (wrong, "the judge")


def test_a_judge_that_fails_once_is_not_asked_again(monkeypatch):
    asked = []

    def fail(*args):
        asked.append(args)
        raise PluginError("no route")

    monkeypatch.setattr(wrong_side, "judge_contradiction", fail)
    judge = Judge("openai:/m")
    assert [judge.rule(rival()), judge.rule(rival())] == [("undecided", "nobody (no route)")] * 2
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("given", "believed", "ruling"),
    [
        (rival(), belief(right=0.9), ("the others", "what the base knows")),
        (
            rival(),
            belief(wrong="three", confidence=0.95),
            ("this row", "what the base knows"),
        ),
        (
            rival(),
            belief(wrong="four", confidence=0.95),
            ("undecided", "the number of rows"),
        ),
        (rival(same_question=0.9, ground=VOTES), None, ("this row", "the nearest rows")),
        (rival(same_question=0.4, ground=VOTES), None, ("undecided", "the number of rows")),
        (rival(rows=(Y, Z)), None, ("this row", "the number of rows")),
        (rival(agreeing=(Z,)), None, ("the others", "the number of rows")),
    ],
)
def test_without_a_judge_the_base_decides_then_near_rows_then_their_number(given, believed, ruling):
    assert rule_without_judge(given, believed, {}) == ruling


def test_a_row_counts_what_its_source_is_trusted():
    assert rule_without_judge(rival((Y, Z)), None, {"web": 0.4}).wrong == "the others"


def test_what_is_wrong_is_read_from_properties():
    cases = {
        wrong: (d.this_row_is_wrong, d.others_are_wrong, d.both_may_be_right)
        for wrong in ("this row", "the others", "both", "neither", "undecided")
        for d in [ContradictionDetails(wrong=wrong)]
    }
    assert cases == {
        "this row": (True, False, False),
        "the others": (False, True, False),
        "both": (False, False, False),
        "neither": (False, False, True),
        "undecided": (False, False, True),
    }
