"""How strong evidence is against how probable its cause is in the labs."""

import pytest

from ilp_mlflow import Evidence
from ilp_mlflow.diagnosis.attribution import attribute
from ilp_mlflow.diagnosis.strengths import (
    Curve,
    NamedShare,
    Strengths,
    as_probabilities,
    read_strengths,
)
from tests.diagnosis.test_attribution import verdict

MEASURED = Strengths(
    measured_on="two seeds",
    curves={"x": Curve(strengths=(0.5, 0.7, 1.0), probabilities=(0.2, 0.4, 0.9))},
    named=(
        NamedShare(from_probability=0.5, named=0.9, wrong=0.2),
        NamedShare(from_probability=0.8, named=0.6, wrong=0.05),
    ),
)


def evidence(cause, strength):
    return Evidence(cause=cause, strength=strength, reason="because")


def test_a_strength_becomes_the_share_that_was_right_and_keeps_its_signal():
    given = {"one": {"a": evidence("x", 0.85), "b": evidence("other", 0.85)}}
    found = as_probabilities(given, MEASURED)["one"]
    assert found["a"].strength == pytest.approx(0.65)
    assert found["a"].signal == 0.85
    # what no lab has is what its diagnostic says
    assert found["b"] == given["one"]["b"]


def test_what_names_no_cause_was_not_measured():
    assert MEASURED.probability("x", 0.49) == 0.49


def test_what_is_weaker_than_all_that_was_seen_is_no_surer_for_it():
    curve = Curve(strengths=(0.9, 1.0), probabilities=(0.95, 0.99))
    unsure = Curve(strengths=(0.9, 1.0), probabilities=(0.6, 0.99))
    seen = MEASURED.model_copy(update={"curves": {"x": curve, "y": unsure}})
    assert seen.probability("x", 0.8) == 0.8
    assert seen.probability("y", 0.8) == 0.6


@pytest.mark.parametrize(("max_wrong", "cut"), [(0.2, 0.5), (0.1, 0.8), (0.05, 0.8), (0.01, 1.0)])
def test_causes_are_named_from_the_least_probability_that_keeps_the_error_rate(max_wrong, cut):
    assert MEASURED.named_from(max_wrong) == cut


def test_an_improbable_cause_makes_way_for_the_next_one():
    given = {"first": {"a": evidence("x", 0.7)}, "last": {"a": evidence("y", 0.6)}}
    order = {"x": 1, "y": 2}
    (plain,) = attribute([verdict("a")], given, order)
    assert plain.cause == "x"
    (found,) = attribute([verdict("a")], as_probabilities(given, MEASURED), order, 0.8)
    assert (found.cause, found.runner_up) == ("y", None)
    # a probability does not make up for a signal that is not there
    weak = {"first": {"a": evidence("x", 0.4)}}
    (none,) = attribute([verdict("a")], as_probabilities(weak, MEASURED), order, 0.1)
    assert none.cause is None


def test_the_packages_curves_rise_and_its_error_rate_falls_with_the_cut():
    strengths = read_strengths()
    for curve in strengths.curves.values():
        assert len(curve.strengths) == len(curve.probabilities)
        assert list(curve.strengths) == sorted(curve.strengths)
        assert list(curve.probabilities) == sorted(curve.probabilities)
    cuts = [point.from_probability for point in strengths.named]
    assert cuts == sorted(cuts)
    assert [p.named for p in strengths.named] == sorted(
        (p.named for p in strengths.named), reverse=True
    )
