"""What small trainings say of a sample, over planted tables of what each of them taught."""

import itertools

import pytest

from ilp_mlflow.core.values import Diagnosis, Evidence, Verdict
from ilp_mlflow.mitigation.confirm.verdict import (
    ADDED_STRENGTH,
    CANNOT_TELL,
    CONFIRMED_STRENGTH,
    KNOWLEDGE,
    KNOWLEDGE_CAUSES,
    NAME,
    REMOVALS,
    SPECIFIC,
    TOO_CLOSE,
    Trained,
    confirm_diagnosis,
)

CAUSES = (*SPECIFIC, *KNOWLEDGE_CAUSES, None)


def diagnosis(cause, **strengths):
    """A diagnosis by evidence of these strengths, by cause."""
    evidence = {
        name: Evidence(cause=name, strength=strength, reason=f"because of {name}")
        for name, strength in strengths.items()
    }
    return Diagnosis(
        verdict=Verdict(sample_id="x", status="unlearned"),
        cause=cause,
        strength=None if cause is None else 0.6,
        reason="as the evidence says",
        evidence=evidence,
    )


def table(*helped, control="unlearned", tried=tuple(REMOVALS), **more):
    """A sample learned under the removals `helped` and under no other of `tried`."""
    removed = {name: "learned" if name in helped else "unlearned" for name in tried}
    return Trained(control, removed, **more)


@pytest.mark.parametrize("before", CAUSES)
@pytest.mark.parametrize("removal", SPECIFIC)
def test_the_one_removal_that_lets_a_sample_be_learned_names_the_cause(removal, before):
    found = confirm_diagnosis(diagnosis(before), table(removal))
    if removal == "insufficient_optimization" and before in KNOWLEDGE_CAUSES:
        assert (found.cause, found.confirmation.verdict) == (before, "undecided")
        assert TOO_CLOSE in found.confirmation.reason
        return
    assert found.cause == removal
    assert found.confirmation.verdict == ("confirmed" if before == removal else "corrected")
    assert found.confirmation.by_evidence == before
    assert found.confirmation.learned_without == (removal,)
    assert found.evidence[NAME].cause == removal
    assert found.runner_up == (None if before == removal else before)
    assert REMOVALS[removal] in found.reason


@pytest.mark.parametrize("before", CAUSES)
def test_an_answer_that_is_read_before_decides_only_where_nothing_less_does(before):
    for removal in ("not_trained", "data_contradiction", "left_side_forgetting"):
        assert confirm_diagnosis(diagnosis(before), table(removal, KNOWLEDGE)).cause == removal
    alone = confirm_diagnosis(diagnosis(before), table(KNOWLEDGE))
    assert CANNOT_TELL in alone.confirmation.reason
    if before in ("insufficient_optimization", "data_contradiction"):
        # a statement of its answer is one more voice against those that contradict it
        assert (alone.cause, alone.confirmation.verdict) == (before, "undecided")
    else:
        assert alone.cause in KNOWLEDGE_CAUSES


def test_what_adds_something_is_less_sure_where_it_overrides():
    def strength(before, removal):
        return confirm_diagnosis(diagnosis(before), table(removal)).strength

    for removal, cause in (
        (KNOWLEDGE, "missing_knowledge"),
        ("insufficient_optimization", "insufficient_optimization"),
    ):
        assert strength(cause, removal) == CONFIRMED_STRENGTH
        assert strength("not_trained", removal) == ADDED_STRENGTH
    assert strength("missing_knowledge", "data_contradiction") == CONFIRMED_STRENGTH


def test_of_the_two_causes_of_knowledge_asking_decides():
    read = table(KNOWLEDGE)
    for cause in KNOWLEDGE_CAUSES:
        kept = confirm_diagnosis(diagnosis(cause), read)
        assert (kept.cause, kept.confirmation.verdict) == (cause, "confirmed")
        asked = diagnosis("not_trained", **dict.fromkeys(KNOWLEDGE_CAUSES, 0.2), **{})
        stronger = asked.model_copy(
            update={
                "evidence": {
                    **asked.evidence,
                    cause: Evidence(cause=cause, strength=0.4, reason="r"),
                }
            }
        )
        assert confirm_diagnosis(stronger, read).cause == cause


UNDECIDED = {
    "nothing helps": table(),
    "the control learns it": table("data_contradiction", control="learned"),
    "the control is on the line": table("data_contradiction", control="uncertain"),
    "the control has no score": table("data_contradiction", control="unscored"),
    "the control does not work": table("data_contradiction", failed=("control",)),
    "the removal does not work": table("data_contradiction", failed=("data_contradiction",)),
    "another training teaches it": table("data_contradiction", placebos=("unlearned", "learned")),
    "nothing of its own is removed": table(tried=()),
    "a removal leaves it on the line": Trained("unlearned", {"data_contradiction": "uncertain"}),
}


@pytest.mark.parametrize("case", UNDECIDED)
@pytest.mark.parametrize("before", CAUSES)
def test_where_the_trainings_say_nothing_the_evidence_stays(case, before):
    given = diagnosis(before, knowledge_conflict=0.3)
    found = confirm_diagnosis(given, UNDECIDED[case])
    assert found.confirmation.verdict == "undecided"
    assert found.confirmation.by_evidence == before
    assert found.confirmation.reason
    assert found.model_copy(update={"confirmation": None}) == given


@pytest.mark.parametrize("pair", itertools.combinations(SPECIFIC, 2))
def test_several_removals_that_help_are_told_and_decide_nothing(pair):
    for before in CAUSES:
        found = confirm_diagnosis(diagnosis(before), table(*pair))
        assert (found.cause, found.confirmation.verdict) == (before, "undecided")
        assert set(found.confirmation.learned_without) == set(pair)
        assert all(REMOVALS[removal] in found.confirmation.reason for removal in pair)


def test_a_removal_that_was_not_tried_or_failed_is_not_said_to_have_been():
    found = confirm_diagnosis(
        diagnosis(None),
        table("not_trained", tried=("not_trained", KNOWLEDGE), failed=(KNOWLEDGE,)),
    )
    assert found.confirmation.tried == ("not_trained",)
    assert REMOVALS[KNOWLEDGE] not in found.reason


def test_what_is_borne_out_is_no_less_sure_for_it():
    sure = diagnosis("data_contradiction").model_copy(update={"strength": 0.99})
    found = confirm_diagnosis(sure, table("data_contradiction"))
    assert (found.confirmation.verdict, found.strength) == ("confirmed", 0.99)
