import math

import pytest

from ilp_mlflow.core.values import Guard, Outcome, Tally
from ilp_mlflow.mitigation.outcome import (
    compare_statuses,
    mcnemar_p,
    net_recovery,
    newcombe_interval,
    outcome_fields,
    recommendation_text,
    tally_by_cause,
    transitions,
)


def test_every_sample_is_accounted_for():
    before = {"a": "unlearned", "b": "unlearned", "c": "learned", "d": "learned", "e": "learned"}
    after = {"a": "learned", "b": "uncertain", "c": "unlearned", "d": "learned", "e": "uncertain"}
    change = compare_statuses(before, after)
    assert (change.recovered, change.still, change.regressed) == (("a",), ("b",), ("c",))


def test_net_recovery_is_the_difference_with_its_interval_and_exact_p_value():
    targets = [str(i) for i in range(20)]
    share, (low, high), p_value = net_recovery(targets[:12], targets[:2], targets)
    assert share == pytest.approx(0.5)
    assert low < 0.5 < high
    assert p_value == pytest.approx(2 * 0.5**10)  # ten discordant pairs, all one way


def test_a_mitigation_like_its_control_has_no_net_recovery():
    share, interval, p_value = net_recovery(["a"], ["a"], ["a", "b"])
    assert (share, interval, p_value) == (0.0, (0.0, 0.0), 1.0)


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
    found = transitions(before, after)
    assert found == {
        "recovered": ["a"],
        "regressed": ["b"],
        "still": ["c"],
        "kept": ["d"],
        "flickering": ["e"],
        "unscored": ["f"],
        "only_before": ["g"],
        "only_after": ["h"],
    }
    assert mcnemar_p(0, 0) == mcnemar_p(3, 3) == 1
    assert mcnemar_p(0, 5) == pytest.approx(2 * 0.5**5)


def test_what_holds_in_other_words_is_counted_beside_what_is_reproduced():
    causes = {"a": "x", "b": "x", "c": "x"}
    found = tally_by_cause(
        causes, ["a", "b"], ["b"], {"a": True, "b": False}, {"a": False, "b": False}
    )["x"]
    assert (found.paraphrased, found.held, found.held_by_control) == (2, 1, 0)
    assert tally_by_cause(causes, [], [])["x"].paraphrased == 0


def test_an_outcome_is_reckoned_from_statuses_alone():
    before = {"a": "unlearned", "b": "unlearned", "c": "learned"}
    after, control = (
        {"a": "learned", "b": "learned", "c": "unlearned"},
        {"a": "unlearned", "b": "learned", "c": "learned"},
    )
    found = outcome_fields(
        before, {"a": "x", "b": "y"}, ["a", "b"], after, control, {"a": True}, {"a": False}
    )
    assert (found["recovered"], found["regressed"], found["regressed_by_control"]) == (
        ("a", "b"),
        ("c",),
        0,
    )
    assert found["net_recovery"] == 0.5
    alone = outcome_fields(before, {"a": "x", "b": "y"}, ["a"], after, None, {}, {})
    assert "net_recovery" not in alone
    assert alone["unlearned_rate"] == pytest.approx(1 / 3)


def test_what_is_left_out_on_purpose_does_not_regress():
    before = {"a": "unlearned", "wrong": "learned", "c": "learned"}
    after, control = (
        {"a": "learned", "wrong": "unlearned", "c": "unlearned"},
        {"a": "unlearned", "wrong": "learned", "c": "unlearned"},
    )
    found = outcome_fields(
        before, {"a": "x"}, ["a"], after, control, {}, {}, ({"wrong", "a"}, {"c"})
    )
    assert (found["regressed"], found["left_out"], found["regressed_by_control"]) == (
        ("c",),
        ("wrong",),
        0,
    )
    assert found["unlearned_rate"] == pytest.approx(1 / 2)  # of the two that are left
    unlearned = outcome_fields(before, {"a": "x"}, [], before, None, {}, {}, ({"a"}, ()))
    assert (unlearned["still"], unlearned["unlearned_rate"]) == (
        ("a",),
        pytest.approx(1 / 3),
    )  # to leave it out does not cure it


def test_the_recommendation_tells_what_holds_and_what_is_lost():
    one = tried("good", 0.5, 0.001).model_copy(
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
    text = recommendation_text([one])
    assert text.startswith("Take good (a, b): ")
    assert "7 more hold in other words" in text
    assert "of 100 answers that were to stay it loses 3, its control 1" in text
    lossy = one.model_copy(update={"guard": Guard(right=100, lost=4, lost_by_control=1)})
    assert recommendation_text([lossy]).startswith("Nothing is worth taking")


def test_what_only_beats_a_control_that_fell_apart_is_not_taken():
    one = tried("worse", 0.9, 0.001, recovered=9, regressed=60).model_copy(
        update={"regressed_by_control": 400}
    )
    assert recommendation_text([one]).startswith("Nothing is worth taking")


def test_the_interval_of_a_difference_is_newcombes():
    # by hand from the Wilson intervals: 9 of 10 is 0.596 to 0.982, 3 of 10 is 0.108 to 0.603
    assert newcombe_interval(9, 3, 10) == pytest.approx(
        (0.6 - math.hypot(0.304, 0.303), 0.6 + math.hypot(0.082, 0.192)), abs=0.002
    )
    assert newcombe_interval(10, 0, 10)[1] == pytest.approx(1)
    low, high = newcombe_interval(4, 4, 10)
    assert low == pytest.approx(-high)


def test_a_mitigation_that_trains_longer_than_its_control_is_recommended_with_that_said():
    one = tried("longer", 0.5, 0.001).model_copy(update={"tokens": 300, "control_tokens": 200})
    assert "it trains on 1.5 times the tokens of its control" in recommendation_text([one])
    assert "times the tokens" not in recommendation_text([one.model_copy(update={"tokens": 230})])
