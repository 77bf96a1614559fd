"""For a sample that is not learned, this cause and `knowledge_conflict` exclude each other: the beliefs are the same in both files."""

from dataclasses import replace

import pytest

from ilp_mlflow import Score
from ilp_mlflow.diagnosis.attribution import WEAK_EVIDENCE
from ilp_mlflow.diagnosis.causes.knowledge_conflict import KnowledgeConflict
from ilp_mlflow.diagnosis.causes.missing_knowledge import MissingKnowledge
from ilp_mlflow.plugin import UnlearnedRisk
from tests.contexts import belief, context, sample, strength_of_belief

X = sample("x")


@pytest.mark.parametrize(
    ("believed", "expected"),
    [
        (belief(right=0.9), None),
        (belief(wrong="y", confidence=0.9), 0.5),
        (belief(wrong="y", confidence=0.99), 0.083),
        (belief(wrong="y", confidence=0.5), 0.9),
        (belief(right=0.4, wrong="y", confidence=0.3), 0.6),
        (belief(), 1),
        (None, None),
    ],
)
def test_the_less_the_base_knows_and_believes_the_stronger(believed, expected):
    strength = strength_of_belief(MissingKnowledge(), believed)
    assert strength == (expected if expected is None else pytest.approx(expected, abs=1e-3))


def test_asked_in_one_way_only_it_is_not_claimed():
    sure = belief(wrong="y", confidence=0.99, phrasings=("a",))
    assert strength_of_belief(MissingKnowledge(), sure) < WEAK_EVIDENCE
    evidence = MissingKnowledge().examine(
        [X], context([X], beliefs={"x": belief(phrasings=("a",))})
    )["x"]
    assert "asked in 1 way, " in evidence.reason


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
    equal = replace(belief(wrong="y", confidence=0.99), unlearned_risk=UnlearnedRisk(0.2, 0.2))
    assert strength_of_belief(MissingKnowledge(), equal) == 0


@pytest.mark.parametrize("diagnostic", [MissingKnowledge(), KnowledgeConflict()])
def test_for_what_the_base_does_not_know_at_all_more_training_is_not_all_that_is_advised(
    diagnostic,
):
    def change(**kwargs):
        believed = belief(wrong="y", confidence=0.99, **kwargs)
        return diagnostic.examine([X], context([X], beliefs={"x": believed}))["x"].change

    assert "leave out" in change()
    assert "guard set" in change()
    assert change(right=0.1) == ""
