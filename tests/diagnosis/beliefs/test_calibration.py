import pytest

from ilp_mlflow.core.interfaces import DEFAULT_FIRMNESS, MIN_KNOWN_PROBABILITY, Belief
from ilp_mlflow.diagnosis.beliefs.calibration import (
    MIN_COMPARED,
    MIN_OF_KIND,
    PRIOR_KNOWN_SAMPLES,
    firm_quantile,
    firmness_by_kind,
    risks_of_kinds,
    unlearned_risks,
)
from tests.contexts import sample


def right(confidence):
    return Belief(confidence, "", confidence, ("a", "b"), agrees=True)


def known(is_known):
    return Belief(1.0 if is_known else 0.0, "", 0.0, ("a", "b"))


def test_firm_is_halfway_between_what_is_guessed_and_what_is_known():
    firm = firmness_by_kind({"a": [0.8] * 50}, {"a": [0.2] * 50})["a"]
    assert firm.confidence == pytest.approx(0.5, abs=0.03)
    assert firm.of(firm.confidence) == pytest.approx(0.5)
    assert firm.of(0.8) > 0.75
    assert firm.of(0.2) < 0.25
    assert firm.of(0.8) == pytest.approx(1 - firm.of(0.2), abs=0.05)


def test_every_kind_has_its_own_line():
    right = {"sure": [0.95] * 20, "unsure": [0.25] * 20}
    guessed = {"sure": [0.4] * 8, "unsure": [0.01] * 8}
    firm = firmness_by_kind(right, guessed)
    assert firm["sure"].of(0.4) < 0.3 < 0.7 < firm["unsure"].of(0.25)
    assert firm["sure"].confidence > firm["unsure"].confidence


def test_a_kind_of_which_nothing_is_known_is_judged_like_the_others():
    firm = firmness_by_kind({"a": [0.9] * 20, "b": []}, {"a": [0.05] * 8})
    assert firm["b"].confidence == pytest.approx(firm["a"].confidence, abs=0.1)


def test_the_clearer_beliefs_stand_apart_from_guesses_the_surer_is_the_verdict():
    narrow = firmness_by_kind({"a": [0.9] * 20}, {"a": [0.1] * 20})["a"]
    wide = firmness_by_kind({"a": [0.999, 0.2] * 10}, {"a": [0.9, 0.001] * 10})["a"]
    assert narrow.slope > wide.slope


def test_without_anything_made_up_there_is_no_line_of_kinds():
    assert firmness_by_kind({"a": [0.9] * 20}, {"a": []}) == {}


def test_firm_is_then_what_the_base_is_sure_of_in_nine_of_ten_things_it_knows():
    assert firm_quantile(right(0.5 + i / 100) for i in range(40)).confidence == pytest.approx(0.54)


def test_nothing_is_firm_that_another_answer_could_outdo():
    assert firm_quantile(right(0.3) for _ in range(40)).confidence == MIN_KNOWN_PROBABILITY


def test_wrong_beliefs_and_too_few_right_ones_do_not_say_what_is_firm():
    few = [right(0.6) for _ in range(MIN_COMPARED - 1)]
    wrong = [Belief(0.0, "Oslo", 0.99, ("a", "b")) for _ in range(40)]
    assert firm_quantile([*few, *wrong]) == DEFAULT_FIRMNESS
    assert firm_quantile([*few, *wrong, right(0.6)]).confidence == 0.6


def risks(known_unlearned, known_learned, unlearned=10, learned=90, stage="first", asked=None):
    """Risks of a stage of which the base knows so many unlearned and learned samples, all asked."""
    lost = [sample(f"u{i}", stage=stage) for i in range(unlearned)]
    kept = [sample(f"l{i}", stage=stage) for i in range(learned)]
    beliefs = {s.id: known(i < known_unlearned) for i, s in enumerate(lost)}
    beliefs |= {s.id: known(i < known_learned) for i, s in enumerate(kept)}
    return unlearned_risks(lost, kept, lost, kept[:asked], beliefs)


def test_risks_follow_from_bayes_rule_with_the_smoothing_that_is_documented():
    # 1 of 10 unlearned and 80 of 90 learned samples are known: 82 / 102 with Laplace's two more
    usual = 82 / 102
    if_unlearned, if_learned = (1 + usual) / 11, (80 + usual) / 91
    by_known = 10 * if_unlearned / (10 * if_unlearned + 90 * if_learned)
    by_unknown = 10 * (1 - if_unlearned) / (10 * (1 - if_unlearned) + 90 * (1 - if_learned))
    pulled = (81 * by_known + PRIOR_KNOWN_SAMPLES * 0.1) / (81 + PRIOR_KNOWN_SAMPLES)
    assert risks(1, 80)["first"] == pytest.approx((pulled, by_unknown))


def test_where_it_does_not_matter_whether_samples_are_known_both_risks_are_about_the_same():
    risk = risks(5, 45)["first"]
    assert risk.if_known == pytest.approx(0.1, abs=0.01)
    assert risk.if_unknown == pytest.approx(0.1, abs=0.01)


def test_a_base_that_knows_nothing_fails_on_what_it_knows_as_often_as_on_all():
    assert risks(0, 0)["first"].if_known == pytest.approx(0.1)


def test_too_few_learned_samples_show_no_risk():
    assert risks(1, 80, asked=MIN_COMPARED - 1) == {}
    assert set(risks(1, 80, asked=MIN_COMPARED)) == {"first"}


def test_a_stage_with_too_few_samples_takes_the_risk_over_all():
    lost = [sample(f"u{i}") for i in range(10)] + [sample("x", stage="small")]
    kept = [sample(f"l{i}") for i in range(30)] + [sample("y", stage="small")]
    beliefs = {s.id: known(s in kept) for s in (*lost, *kept)}
    found = unlearned_risks(lost, kept, lost, kept, beliefs)
    assert found["small"].if_unknown > found["small"].if_known
    both = [s.model_copy(update={"stage": "one"}) for s in lost]
    all_kept = [s.model_copy(update={"stage": "one"}) for s in kept]
    assert unlearned_risks(both, all_kept, both, all_kept, beliefs)["one"] == found["small"]
    assert found["first"] != found["small"]
    # other stages do not tell what more training would have taught in one that had too little
    assert set(unlearned_risks(lost, kept, lost, kept, beliefs, {"small"})) == {"first"}


def test_samples_the_base_could_not_be_asked_about_do_not_count_as_unknown():
    lost = [sample(f"u{i}") for i in range(5)]
    kept = [sample(f"l{i}") for i in range(40)]
    asked = {s.id: known(True) for s in kept}
    assert unlearned_risks(lost, kept, lost, kept, asked) == {}
    one = unlearned_risks(lost, kept, lost, kept, asked | {"u0": known(False)})
    other = unlearned_risks(lost, kept, lost[:1], kept, asked | {"u0": known(False)})
    assert one == other


def kinds_risks(learned_of_rules, compared_of_rules=MIN_OF_KIND):
    """Of one stage: facts are learned where the base knows them, rules whatever it knows."""
    lost = [sample(f"fact/u{i}") for i in range(10)] + [sample(f"rule/u{i}") for i in range(2)]
    kept = [sample(f"fact/l{i}") for i in range(40)]
    rules = [sample(f"rule/l{i}") for i in range(learned_of_rules)]
    beliefs = {s.id: known(s in kept) for s in (*lost, *kept, *rules)}
    group_of = {id_: ("first", id_.partition("/")[0]) for id_ in beliefs}
    compared = [*kept, *rules[:compared_of_rules]]
    learned = [*kept, *rules]
    stage_risks = unlearned_risks(lost, learned, lost, compared, beliefs)
    return stage_risks["first"], risks_of_kinds(
        lost, learned, lost, compared, beliefs, group_of, stage_risks
    )


def test_what_rows_teach_whatever_the_base_knows_is_told_by_its_kind():
    stage, of_kinds = kinds_risks(30)
    assert stage.if_unknown > 3 * stage.if_known
    facts, rules = of_kinds["first", "fact"], of_kinds["first", "rule"]
    assert facts.if_unknown > 0.8
    assert rules.if_unknown == pytest.approx(2 / 32, abs=0.01)


def test_a_kind_of_which_too_few_are_learned_is_judged_as_its_stage():
    assert set(kinds_risks(30, MIN_OF_KIND - 1)[1]) == {("first", "fact")}
    lost, kept = [sample("u")], [sample(f"l{i}") for i in range(40)]
    beliefs = {s.id: known(s in kept) for s in (*lost, *kept)}
    one = dict.fromkeys(beliefs, ("first", "all"))
    stage_risks = unlearned_risks(lost, kept, lost, kept, beliefs)
    assert risks_of_kinds(lost, kept, lost, kept, beliefs, one, stage_risks) == {}


def test_one_guess_that_says_nothing_does_not_outweigh_those_that_say_something():
    with_nothing = firmness_by_kind({"a": [0.9] * 8}, {"a": [0.4, 0.4, 0.4, 0.0]})["a"]
    with_little = firmness_by_kind({"a": [0.9] * 8}, {"a": [0.4, 0.4, 0.4, 0.02]})["a"]
    assert with_nothing == with_little
    assert with_nothing.confidence > 0.3
