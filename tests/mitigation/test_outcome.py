"""What a mitigation did and which one to take, on cases of which it is known."""

import random

import pytest

from ilp_mlflow.core.values import Guard, Outcome, Report, Tally, Unscored, Verdict
from ilp_mlflow.mitigation.outcome import (
    Arm,
    Before,
    compare_statuses,
    measure_effect,
    outcome_sentence,
    recommendation_text,
    recommended,
    tally_by_cause,
    unlearned_fault,
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


def test_a_sample_without_a_score_on_one_side_is_neither_recovered_nor_regressed():
    before = {"a": "unlearned", "b": "learned", "c": "unscored", "d": "unscored", "e": "learned"}
    after = {"a": "unscored", "b": "unscored", "c": "unlearned", "d": "learned"}
    change = compare_statuses(before, after)
    assert change.recovered == change.still == change.regressed == ()
    assert change.unscored == ("a", "b", "e")  # e is missing
    assert change.unscored_before == ("c",)


def test_shares_are_of_what_is_scored_on_both_sides():
    ids = "abcdef"
    before = Before(dict.fromkeys(ids, "unlearned"), dict.fromkeys(ids, "x"))
    treated = dict(zip(ids, ["learned"] * 3 + ["unlearned"] * 2 + ["unscored"], strict=True))
    control = dict(zip(ids, ["unscored", "learned"] + ["unlearned"] * 4, strict=True))
    effect = measure_effect(before, list(ids), Arm(treated), Arm(control))
    assert (effect.unscored, effect.unscored_by_control) == (("f",), ("a",))
    assert (effect.recovered, effect.still) == (("a", "b", "c"), ("d", "e"))
    # of b, c, d and e
    assert effect.net_recovery == 1 / 4
    assert effect.causes == {"x": Tally(unlearned=4, recovered=2, by_control=1, unscored=2)}
    assert effect.causes["x"].net == 1 / 4
    assert effect.p_value == 1  # one gained against two that may be lost
    assert effect.unlearned_rate == 2 / 5


def test_a_mitigation_under_which_nothing_is_scored_has_no_share_and_wins_nothing():
    ids = list("abcdef")
    before = Before(dict.fromkeys(ids, "unlearned"), dict.fromkeys(ids, "x"))
    nothing = Arm(dict.fromkeys(ids, "unscored"))
    for treated, control in ((nothing, Arm(before.statuses)), (Arm(before.statuses), nothing)):
        effect = measure_effect(before, ids, treated, control)
        assert effect.net_recovery is effect.net_interval is None
        assert effect.causes["x"].net is None
        assert recommended([as_outcome(effect)]) is None
    assert measure_effect(before, ids, nothing, None).unlearned_rate is None
    assert measure_effect(Before({}, {}), [], Arm({}), None).unlearned_rate is None


def test_what_was_not_scored_before_counts_against_the_mitigation_where_it_is_worse_now():
    before = Before(dict.fromkeys("abcde", "unscored"), {})
    after = ("unlearned", "unlearned", "learned", "unscored", "unscored")
    treated = dict(zip("abcde", after, strict=True))
    by_control = ("unlearned", "learned", "unlearned", "unscored", "learned")
    control = dict(zip("abcde", by_control, strict=True))
    effect = measure_effect(before, [], Arm(treated), Arm(control))
    # a and d are alike under both, c is better
    assert effect.unscored == ("b", "e")
    assert effect.unscored_before == ("a", "b")
    assert effect.unscored_by_control == effect.regressed == ()


def as_outcome(effect, guard=None):
    """An outcome of such an effect."""
    fields = {name: getattr(effect, name) for name in effect.__dataclass_fields__}
    return Outcome(mitigation="m", run_id="r", control_run_id="c", guard=guard, **fields)


STATUSES = ("learned", "unlearned", "uncertain", "unscored")


def random_statuses(rng, ids, weights):
    return dict(zip(ids, rng.choices(STATUSES, weights, k=len(ids)), strict=True))


@pytest.mark.parametrize("seed", range(10))
def test_to_lose_a_score_never_makes_a_mitigation_worth_taking(seed):
    """A score of any arm, taken away, turns no refusal into a recommendation and raises no share of what is certain."""
    rng = random.Random(seed)
    ids = [f"s{n}" for n in range(24)]
    taken = 0
    for _ in range(60):
        before_statuses = random_statuses(rng, ids, (8, 16, 0, 0))
        treated = random_statuses(rng, ids, (18, 3, 1, 1))
        control = random_statuses(rng, ids, (8, 12, 1, 1))
        full = judged(before_statuses, treated, control)
        taken += full is not None
        for name in ("treated", "control", "both", "before"):
            victim = rng.choice(ids)
            arms = [dict(before_statuses), dict(treated), dict(control)]
            for place in {"before": [0], "treated": [1], "control": [2], "both": [1, 2]}[name]:
                arms[place][victim] = "unscored"
            # what is scored nowhere, such as a row that is too long, says nothing of a trial
            anywhere = {arm[victim] for arm in arms} != {"unscored"}
            if full is None and anywhere:
                assert judged(*arms) is None, (name, victim)
    assert 0 < taken < 60


def judged(before_statuses, treated, control):
    """The recommended outcome of all unlearned samples as targets, or None."""
    causes = {i: "x" for i, status in before_statuses.items() if status == "unlearned"}
    effect = measure_effect(
        Before(before_statuses, causes), list(causes), Arm(treated), Arm(control)
    )
    return recommended([as_outcome(effect)])


def test_what_lost_its_score_is_said_with_the_recommendation_and_on_its_run():
    outcome = tried("good", 0.9, 0.001).model_copy(
        update={
            "unscored": ("q",),
            "unscored_by_control": ("q", "r"),
            "unscored_reasons": (Unscored(samples=1, reason="not a number", example="q"),),
        }
    )
    assert "2 samples have no score before, under it or under its control" in recommendation_text(
        [outcome]
    )
    assert "1 are unscored (such as 'q': not a number)" in outcome_sentence(outcome)
    worse = outcome.model_copy(update={"unscored": tuple("abcdefghijk")})
    assert recommendation_text([worse]).endswith("count against a mitigation: good 13.")


def test_the_test_counts_unscored_targets_against_a_mitigation_that_gains_on_the_others():
    # 5 gained, none lost, 20 not scored: significant, but the wrong way round at worst
    targets = tuple(map(str, range(25)))
    outcome = tried("m", 1.0, 0.001).model_copy(
        update={"targets": targets, "unscored": targets[5:], "recovered": targets[:5]}
    )
    assert recommended([outcome]) is None


def some_report(statuses, outcomes=()):
    verdicts = []
    for sample_id, status in statuses.items():
        reason = "not a number" if status == "unscored" else ""
        verdicts.append(Verdict(sample_id=sample_id, status=status, reason=reason))
    return Report(
        name="x",
        run_id="r",
        preset="default",
        checkpoints=(),
        retention={},
        recognition={},
        verdicts=tuple(verdicts),
        histories={},
        diagnoses=(),
        outcomes=tuple(outcomes),
        asked=1,
    )


def test_the_gate_on_unlearned_samples_fails_while_one_is_not_scored():
    learned = {"a": "learned", "b": "learned", "c": "unlearned"}
    assert unlearned_fault(some_report(learned), 0.5) == ""
    assert unlearned_fault(some_report(learned), 0.1).startswith("33.3% unlearned under what is")
    spoiled = some_report({**learned, "b": "unscored"})
    assert unlearned_fault(spoiled, 1) == (
        "1 sample is unscored under what is recommended (such as 'b': not a number); "
        "--max-unlearned cannot be met"
    )
    assert unlearned_fault(some_report(dict.fromkeys("ab", "unscored")), 1)
    assert unlearned_fault(some_report({}), 1)
    # the model that is recommended counts, not the one it starts from
    good = tried("good", 0.5, 0.001).model_copy(update={"unlearned_rate": 0.0})
    assert unlearned_fault(some_report({**learned, "b": "unscored"}, [good]), 0) == ""
    reasons = (Unscored(samples=2, reason="not a number", example="q"),)
    unsure = good.model_copy(update={"unscored_reasons": reasons})
    assert unlearned_fault(some_report(learned, [unsure]), 1).startswith("2 samples are unscored")
    unknown = good.model_copy(update={"unlearned_rate": None})
    assert unlearned_fault(some_report(learned, [unknown]), 1).startswith("no sample is scored")


@pytest.mark.parametrize("seed", range(10))
def test_to_lose_a_score_never_opens_the_gate_on_unlearned_samples(seed):
    rng = random.Random(seed)
    for _ in range(100):
        statuses = random_statuses(rng, list("abcdef"), (8, 3, 1, 1))
        limit = rng.random()
        if unlearned_fault(some_report(statuses), limit):
            spoiled = {**statuses, rng.choice("abcdef"): "unscored"}
            assert unlearned_fault(some_report(spoiled), limit)
