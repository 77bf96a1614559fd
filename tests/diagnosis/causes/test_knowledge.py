"""The two causes that are read from what the base believes: for a sample that is not learned they exclude each other."""

from dataclasses import replace

import pytest

from ilp_mlflow import Score
from ilp_mlflow.diagnosis.attribution import WEAK_EVIDENCE
from ilp_mlflow.diagnosis.causes.knowledge_conflict import KnowledgeConflict
from ilp_mlflow.diagnosis.causes.missing_knowledge import MissingKnowledge
from ilp_mlflow.plugin import UnlearnedRisk
from tests.contexts import belief, context, sample

X = sample("x")


def strengths(believed):
    known = context([X], beliefs={"x": believed} if believed else {})
    found = [d.examine([X], known) for d in (KnowledgeConflict(), MissingKnowledge())]
    return [evidence["x"].strength if evidence else None for evidence in found]


@pytest.mark.parametrize(
    ("believed", "conflict", "missing"),
    [
        (belief(right=0.9), None, None),
        (belief(wrong="y", confidence=0.9), 0.5, 0.5),
        (belief(wrong="y", confidence=0.99), 0.917, 0.083),
        (belief(wrong="y", confidence=0.5), 0.1, 0.9),
        (belief(right=0.4, wrong="y", confidence=0.3), 0.045, 0.6),
        (belief(), None, 1),
        (None, None, None),
    ],
)
def test_strengths(believed, conflict, missing):
    found = strengths(believed)
    for strength, expected in zip(found, (conflict, missing), strict=True):
        assert strength == (expected if expected is None else pytest.approx(expected, abs=1e-3))


def test_asked_in_one_way_only_neither_is_claimed():
    conflict, missing = strengths(belief(wrong="y", confidence=0.99, phrasings=("a",)))
    assert conflict == 0
    assert missing < WEAK_EVIDENCE
    evidence = MissingKnowledge().examine(
        [X], context([X], beliefs={"x": belief(phrasings=("a",))})
    )["x"]
    assert "asked in 1 way, " in evidence.reason


def test_the_other_answer_and_how_it_was_asked_are_shown():
    found = KnowledgeConflict().examine(
        [X], context([X], beliefs={"x": belief(wrong="Oslo", confidence=0.95)})
    )["x"]
    assert "asked in 3 ways, the base says 'Oslo' with probability 0.950" in found.reason
    assert found.details["asked"] == ["a", "b", "c"]


def test_what_the_study_would_say_stands_beside():
    """The base picks the right of four options in no run."""
    options = {
        "option_logprobs": (-9.0, -0.1, -5.0, -5.0),
        "p_correct": 0.0001,
        "p_wrong": 0.99,
        "wrong": "y",
    }
    scored = Score(
        sample_id="x",
        checkpoint="base",
        logprob=-9,
        tokens=1,
        greedy=False,
        token_accuracy=0,
        gap=-9,
        **options,
    )
    found = MissingKnowledge().examine([X], context([X], scores=[scored], beliefs={"x": belief()}))[
        "x"
    ]
    assert (found.details["exists"], found.details["blind"]) == (False, True)
    assert found.model_dump(mode="json")
    assert (
        "exists"
        not in MissingKnowledge().examine([X], context([X], beliefs={"x": belief()}))["x"].details
    )


def test_what_the_base_does_not_know_of_what_is_learned_explains_nothing():
    conflict, missing = strengths(
        replace(belief(wrong="y", confidence=0.99), unlearned_risk=UnlearnedRisk(0.2, 0.2))
    )
    assert (conflict, missing) == (0, 0)
