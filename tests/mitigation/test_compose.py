"""Choosing and composing plans, on hand-made ones of which it is known what should come out."""

import copy
from dataclasses import replace
from typing import ClassVar

import pytest

from ilp_mlflow.mitigation.compose import (
    Candidate,
    as_candidate,
    choose_mitigations,
    compose_plans,
    expected_recovery,
    next_combination,
)
from ilp_mlflow.plugin import Plan, Stage, Value
from tests.contexts import context, sample

ROWS = [
    sample(f"{stage}{n}", prompt="p" * 9, completion="c", stage=stage)
    for stage in ("first", "second")
    for n in range(5)
]
WHOLE = context(ROWS)


def made(name, cause, targets, value=1.0, merges=False):
    """A candidate of this value, for as many characters whatever its targets."""
    expected = value / len(targets)
    return Candidate(name, cause, frozenset(targets), expected, cost=1e6, merges=merges)


def names(candidates):
    return [c.name for c in candidates]


def test_the_largest_group_comes_first_and_each_gets_its_most_valuable():
    chosen = choose_mitigations(
        [
            made("a1", "a", "12", 1),
            made("a2", "a", "12", 2),
            made("b1", "b", "345", 0.1),
            made("c1", "c", "6", 9),
        ],
    )
    assert names(chosen) == ["b1", "a2", "c1"]


def test_a_second_one_for_a_cause_is_taken_for_targets_of_its_own_only():
    assert names(
        choose_mitigations(
            [made("some", "a", "12", 2), made("same", "a", "1"), made("others", "a", "3")]
        )
    ) == [
        "some",
        "others",
    ]


def test_of_those_that_leave_no_place_for_others_one_is_taken():
    chosen = choose_mitigations(
        [
            made("mix", "a", "123", merges=True),
            made("grow", "b", "45", 9, merges=True),
            made("add", "b", "45"),
        ]
    )
    assert names(chosen) == ["mix", "add"]


def test_what_is_to_be_expected_moves_from_the_prior_to_what_was_seen():
    class Sure(Value):
        prior: ClassVar[float] = 0.9

    assert expected_recovery(object(), []) == 0.5
    assert expected_recovery(Sure(), []) == pytest.approx(0.9)
    assert expected_recovery(object(), [(10, 1.0)]) == pytest.approx(0.75)
    assert expected_recovery(object(), [(990, 0.1)]) == pytest.approx(0.104)


def test_a_candidate_costs_what_has_to_be_trained_and_is_for_the_cause_of_most_targets():
    first, second = WHOLE.stages
    twice = second.model_copy(update={"training": {"num_train_epochs": 2}})
    causes = {"first0": "x", "first1": "y", "first2": "y"}
    late = as_candidate(
        "late", Plan(targets=("first0",), stages=(first, twice)), WHOLE, causes, 0.5
    )
    early = as_candidate(
        "early", Plan(targets=tuple(causes), stages=(twice, second)), WHOLE, causes, 0.5
    )
    # the prompts have nine characters, the answers one
    assert (late.expected_recovery, late.cost) == (0.5, 2 * 5 * 10)
    assert late.value == pytest.approx(0.5 * 1e6 / (2 * 5 * 10))
    assert early.value == pytest.approx(3 * 0.5 * 1e6 / ((2 + 3) * 5 * 10))
    assert (late.cause, early.cause) == ("x", "y")
    assert early.merges
    assert not late.merges
    counted = second.model_copy(
        update={"training": {"max_steps": 3, "per_device_train_batch_size": 2}}
    )
    candidate = as_candidate(
        "steps", Plan(targets=("first0",), stages=(first, counted)), WHOLE, causes, 1
    )
    assert candidate.value == pytest.approx(1e6 / (3 * 2 * 10))


def added(name, *, control=True):
    """Plans one more row in the first stage that the context has, and another in its control."""

    def plan(known):
        def with_row(stage, row):
            return stage.model_copy(
                update={"samples": (*stage.samples, sample(row, stage=stage.name))}
            )

        first, *rest = known.stages
        instead = (with_row(first, f"{name} instead"), *rest) if control else None
        return Plan(
            targets=(f"first{len(name)}",), stages=(with_row(first, name), *rest), control=instead
        )

    return plan


def merged(known):
    """Plans one stage in place of all."""
    rows = tuple(row for stage in known.stages for row in stage.samples)
    return Plan(targets=("second0",), stages=(Stage(name="all", samples=rows),))


def test_plans_are_made_on_top_of_each_other_those_that_merge_last_and_controls_likewise():
    planners = {
        "mix": merged,
        "a": added("a"),
        "bb": added("bb", control=False),
        "none": lambda known: None,
    }
    chosen = [made("mix", "x", "1", merges=True), *(made(n, n, "1") for n in ("a", "none", "bb"))]
    composed, plan = compose_plans(chosen, lambda name, known: planners[name](known), WHOLE)
    assert composed == ("a", "bb", "mix")
    assert plan.targets == ("first1", "first2", "second0")
    (stage,) = plan.stages
    assert [s.id for s in stage.samples if s not in ROWS] == ["a", "bb"]
    assert [s.name for s in plan.control] == ["first", "second"]
    assert [s.id for s in plan.control[0].samples if s not in ROWS] == ["a instead"]


def test_for_the_cause_with_most_left_another_is_tried_until_all_were():
    have = [
        made("a1", "a", "12", 9),
        made("a2", "a", "12", 1),
        made("b1", "b", "3"),
        made("b2", "b", "3", 0.1),
    ]
    first = choose_mitigations(have)
    tried = [frozenset(names(first))]
    seen = []
    while (combination := next_combination(first, have, {"a": 2, "b": 1}, tried)) is not None:
        seen.append(sorted(names(combination)))
        tried.append(frozenset(names(combination)))
    assert seen == [["a2", "b1"], ["a1", "b2"]]
    assert next_combination(first, have, {"a": 0, "b": 0}, []) is None


def test_a_context_is_left_as_it_was():
    context_of_two = replace(WHOLE, stages=list(WHOLE.stages))
    before = copy.deepcopy(context_of_two.stages)
    _, plan = compose_plans(
        [made("a", "a", "1")], lambda name, known: added("a")(known), context_of_two
    )
    assert list(plan.stages) != before
    assert context_of_two.stages == before
