"""For a sample that is not learned, this cause and `missing_knowledge` exclude each other: the beliefs are the same in both files."""

from dataclasses import replace

import pytest

from ilp_mlflow.diagnosis.causes.knowledge_conflict import KnowledgeConflict
from ilp_mlflow.plugin import UnlearnedRisk
from tests.contexts import belief, context, sample, strength_of_belief


@pytest.mark.parametrize(
    ("believed", "expected"),
    [
        (belief(right=0.9), None),
        (belief(wrong="y", confidence=0.9), 0.5),
        (belief(wrong="y", confidence=0.99), 0.917),
        (belief(wrong="y", confidence=0.5), 0.1),
        (belief(right=0.4, wrong="y", confidence=0.3), 0.045),
        (belief(), None),
        (None, None),
    ],
)
def test_the_firmer_the_base_believes_another_answer_the_stronger(believed, expected):
    strength = strength_of_belief(KnowledgeConflict(), believed)
    assert strength == (expected if expected is None else pytest.approx(expected, abs=1e-3))


def test_asked_in_one_way_only_it_is_not_claimed():
    sure = belief(wrong="y", confidence=0.99, phrasings=("a",))
    assert strength_of_belief(KnowledgeConflict(), sure) == 0


def test_the_other_answer_and_how_it_was_asked_are_shown():
    x = sample("x")
    found = KnowledgeConflict().examine(
        [x], context([x], beliefs={"x": belief(wrong="Oslo", confidence=0.95)})
    )["x"]
    assert "asked in 3 ways, the base says 'Oslo' with probability 0.950" in found.reason
    assert found.details["asked"] == ["a", "b", "c"]


def test_a_wrong_answer_that_is_learned_as_well_as_a_right_one_explains_nothing():
    equal = replace(belief(wrong="y", confidence=0.99), unlearned_risk=UnlearnedRisk(0.2, 0.2))
    assert strength_of_belief(KnowledgeConflict(), equal) == 0
