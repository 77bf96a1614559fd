"""What a mitigation did and which one to take, on cases of which it is known."""

import pytest

from ilp_mlflow.core.values import Guard, Outcome, Tally
from ilp_mlflow.mitigation.outcome import (
    Arm,
    Before,
    compare_statuses,
    measure_effect,
    recommendation_text,
    tally_by_cause,
)


def test_every_sample_is_accounted_for():
    before = {"a": "unlearned", "b": "unlearned", "c": "learned", "d": "learned", "e": "learned"}
    after = {"a": "learned", "b": "uncertain", "c": "unlearned", "d": "learned", "e": "uncertain"}
    change = compare_statuses(before, after)
    assert (change.recovered, change.still, change.regressed) == (("a",), ("b",), ("c",))


def test_what_is_recovered_is_counted_by_cause():
    causes = {"a": "x", "b": "x", "c": "y"}
    assert tally_by_cause(causes, ["a", "c"], ["c"]) == {
        "x": Tally(unlearned=2, recovered=1, by_control=0),
        "y": Tally(unlearned=1, recovered=1, by_control=1),
    }
    assert tally_by_cause(causes, ["a", "c"], ["c"])["x"].net == 0.5


def tried(name, net, p_value, recovered=10, regressed=0):
    return Outcome(
        mitigation=name,
        run_id="r",
        targets=("a",) * 10,
        recovered=tuple(map(str, range(recovered))),
        still=(),
        regressed=("z",) * regressed,
        causes={"x": Tally(unlearned=10, recovered=recovered, by_control=0)},
        net_recovery=net,
        p_value=p_value,
        regressed_by_control=0,
    )


@pytest.mark.slow
def test_one_is_recommended_that_beats_its_control_and_breaks_less_than_it_mends():
    good, better, harmful = (
        tried("good", 0.5, 0.001, 5),
        tried("better", 0.9, 0.001, 9),
        tried("harmful", 1.0, 0.001, 10, 11),
    )
    assert recommendation_text([good, better, harmful]).startswith(
        "Take better: net of its control it recovers 90% of its 10 targets"
    )
    assert recommendation_text([harmful]).startswith(
        "Nothing is worth taking: what beats its control"
    )
    assert (
        recommendation_text([tried("lucky", 0.3, 0.04), tried("other", 0.3, 0.04)])
        == "Nothing beat the control."
    )  # two tries
    assert recommendation_text([tried("lucky", 0.3, 0.04)]).startswith("Take lucky")
    assert recommendation_text([tried("worse", -0.5, 0.001)]) == "Nothing beat the control."
    assert recommendation_text([]) == ""


def test_what_holds_in_other_words_is_counted_beside_what_is_reproduced():
    causes = {"a": "x", "b": "x", "c": "x"}
    tally = tally_by_cause(
        causes, ["a", "b"], ["b"], {"a": True, "b": False}, {"a": False, "b": False}
    )["x"]
    assert (tally.paraphrased, tally.held, tally.held_by_control) == (2, 1, 0)
    assert tally_by_cause(causes, [], [])["x"].paraphrased == 0


def test_an_outcome_is_reckoned_from_statuses_alone():
    before = Before({"a": "unlearned", "b": "unlearned", "c": "learned"}, {"a": "x", "b": "y"})
    treated = Arm({"a": "learned", "b": "learned", "c": "unlearned"}, {"a": True})
    control = Arm({"a": "unlearned", "b": "learned", "c": "learned"}, {"a": False})
    effect = measure_effect(before, ["a", "b"], treated, control)
    assert (effect.recovered, effect.regressed, effect.regressed_by_control) == (
        ("a", "b"),
        ("c",),
        0,
    )
    assert effect.net_recovery == 0.5
    assert effect.p_value == 1  # one discordant pair
    assert effect.causes == {
        "x": Tally(unlearned=1, recovered=1, by_control=0, paraphrased=1, held=1),
        "y": Tally(unlearned=1, recovered=1, by_control=1),
    }
    alone = measure_effect(before, ["a"], Arm(treated.statuses), None)
    assert alone.net_recovery is alone.net_interval is alone.p_value is None
    assert alone.regressed_by_control is None
    assert alone.unlearned_rate == pytest.approx(1 / 3)
    assert {tally.by_control for tally in alone.causes.values()} == {0}
    untargeted = measure_effect(before, [], treated, control)
    assert untargeted.net_recovery is None
    assert untargeted.causes == effect.causes


def test_what_is_left_out_on_purpose_does_not_regress():
    before = Before({"a": "unlearned", "wrong": "learned", "c": "learned"}, {"a": "x"})
    after = {"a": "learned", "wrong": "unlearned", "c": "unlearned"}
    by_control = {"a": "unlearned", "wrong": "learned", "c": "unlearned"}
    effect = measure_effect(
        before,
        ["a"],
        Arm(after, dropped={"wrong", "a"}),
        Arm(by_control, dropped={"c"}),
    )
    assert (effect.regressed, effect.left_out, effect.regressed_by_control) == (
        ("c",),
        ("wrong",),
        0,
    )
    assert effect.unlearned_rate == pytest.approx(1 / 2)  # of the two that are left
    # to leave it out does not cure it
    unlearned = measure_effect(before, [], Arm(before.statuses, dropped={"a"}), None)
    assert (unlearned.still, unlearned.unlearned_rate) == (("a",), pytest.approx(1 / 3))


def test_the_recommendation_tells_what_holds_and_what_is_lost():
    outcome = tried("good", 0.5, 0.001).model_copy(
        update={
            "combines": ("a", "b"),
            "causes": {
                "x": Tally(
                    unlearned=10,
                    recovered=10,
                    by_control=0,
                    paraphrased=10,
                    held=8,
                    held_by_control=1,
                )
            },
            "guard": Guard(right=100, lost=3, lost_by_control=1),
        }
    )
    text = recommendation_text([outcome])
    assert text.startswith("Take good (a, b): ")
    assert "7 more hold in other words" in text
    assert "of 100 answers that were to stay it loses 3, its control 1" in text
    lossy = outcome.model_copy(update={"guard": Guard(right=100, lost=4, lost_by_control=1)})
    assert recommendation_text([lossy]).startswith("Nothing is worth taking")


def test_what_only_beats_a_control_that_fell_apart_is_not_taken():
    outcome = tried("worse", 0.9, 0.001, recovered=9, regressed=60).model_copy(
        update={"regressed_by_control": 400}
    )
    assert recommendation_text([outcome]).startswith("Nothing is worth taking")


def test_a_mitigation_that_trains_longer_than_its_control_is_recommended_with_that_said():
    outcome = tried("longer", 0.5, 0.001).model_copy(update={"tokens": 300, "control_tokens": 200})
    assert "it trains on 1.5 times the tokens of its control" in recommendation_text([outcome])
    assert "times the tokens" not in recommendation_text(
        [outcome.model_copy(update={"tokens": 230})]
    )
