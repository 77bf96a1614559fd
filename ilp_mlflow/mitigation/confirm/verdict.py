"""What small trainings with one cause removed say of a sample. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ilp_mlflow.core.values import Confirmation, Diagnosis, Evidence, Status

KNOWLEDGE = "knowledge"
"""Removal of both causes that lie in what the base knows: the row's own answer is read before."""
KNOWLEDGE_CAUSES = ("missing_knowledge", "knowledge_conflict")
"""The causes with that one removal; which of them it is, only asking the base can tell."""
REMOVALS: Mapping[str, str] = {
    "not_trained": "the options that kept it from the model are left out",
    "data_contradiction": "the rows that answer the same otherwise agree with it",
    "left_side_forgetting": "rows of its stage are rehearsed in the stage that overwrote it",
    "insufficient_optimization": "other rows of its kind are trained as often as those of others",
    KNOWLEDGE: "a statement of its answer is read before",
}
"""What is removed, by the cause that a removal stands for, in words."""
SPECIFIC = tuple(removal for removal in REMOVALS if removal != KNOWLEDGE)
"""Removals that tell the model nothing of a row but what the row itself tells."""
MIN_CHECKED = 0.7
"""Share 0..1 of the check rows that a small training must teach; else it says nothing."""
ADDING = ("insufficient_optimization", KNOWLEDGE)
"""Removals that add something from which an answer can be learned, whatever kept it from being so.

Neither speaks against the evidence where that names the cause of the other.
"""
CONFIRMED_STRENGTH = 0.95
"""Strength of a cause that was confirmed, or corrected by a removal that adds nothing."""
ADDED_STRENGTH = 0.8
"""Strength of a cause that was corrected by one of the ADDING removals."""
NAME = "confirm"
"""Under which name a diagnosis has the evidence of small trainings."""
TOO_CLOSE = "between too little training and what the base knows, small trainings do not decide"
"""What is said where evidence and a removal that adds something name different causes."""
ANOTHER_VOTE = "that is one more voice for its answer against those that contradict it"
"""What is said where a statement helps a row that others contradict."""
CANNOT_TELL = "which of missing knowledge and a conflict it is, small trainings cannot tell"
"""What is said where the statement alone helps."""


class Trained(NamedTuple):
    """What became of one sample in the small trainings of its stage."""

    control: Status
    """Under the training in which nothing is removed."""
    removed: Mapping[str, Status]
    """Under those in which something of its own is removed, by removal."""
    placebos: tuple[Status, ...] = ()
    """Under those in which something is removed that is none of its own."""
    failed: tuple[str, ...] = ()
    """Trainings, by removal or `control`, that did not teach their check rows."""


def confirm_diagnosis(diagnosis: Diagnosis, trained: Trained) -> Diagnosis:
    """The diagnosis with what the small trainings say of its sample.

    They override the evidence where just one removal that tells nothing new lets the sample be
    learned, or none of these does and a statement of its answer does; but not where this is between
    too little training and what the base knows. In all other cases the evidence's cause stays, and
    the reason says why.
    """
    helped = _removals_that_helped(trained)
    obstacle = _obstacle(trained)
    removal = None if obstacle else _decisive(helped)
    if removal is None:
        reason = obstacle or _undecided_sentence(helped, trained)
        return _with(diagnosis, "undecided", reason, trained)
    cause = _cause_of(removal, diagnosis)
    if _is_too_close(cause, diagnosis.cause):
        reason = f"{_sentence(removal, trained)}; {TOO_CLOSE}"
        return _with(diagnosis, "undecided", reason, trained)
    if removal == KNOWLEDGE and _is_contradicted(diagnosis, trained):
        reason = f"{_sentence(removal, trained)}; {ANOTHER_VOTE}"
        return _with(diagnosis, "undecided", reason, trained)
    verdict = "confirmed" if cause == diagnosis.cause else "corrected"
    reason = f"{verdict} by small trainings: {_sentence(removal, trained)}"
    is_sure = verdict == "confirmed" or removal not in ADDING
    strength = CONFIRMED_STRENGTH if is_sure else ADDED_STRENGTH
    if verdict == "confirmed":
        # evidence that is borne out is no less sure for it
        strength = max(strength, diagnosis.strength or 0.0)
    found = Evidence(cause=cause, strength=strength, reason=reason)
    own_reasons = [e.reason for e in diagnosis.evidence.values() if e.cause == cause and e.strength]
    changes = [e.change for e in diagnosis.evidence.values() if e.cause == cause]
    overridden = diagnosis.model_copy(
        update={
            "cause": cause,
            "strength": strength,
            "reason": "; ".join([reason, *own_reasons[:1]]),
            "change": next(iter(changes), ""),
            "runner_up": diagnosis.runner_up if verdict == "confirmed" else diagnosis.cause,
            "evidence": {**diagnosis.evidence, NAME: found},
        }
    )
    return _with(overridden, verdict, reason, trained, diagnosis.cause)


def _removals_that_helped(trained: Trained) -> list[str]:
    """Removals under which the sample is learned, of trainings that worked."""
    helped = []
    for removal in REMOVALS:
        works = removal not in trained.failed
        if works and trained.removed.get(removal) == "learned":
            helped.append(removal)
    return helped


def _obstacle(trained: Trained) -> str:
    """Why the small trainings say nothing of a sample; "" where they may."""
    if "control" in trained.failed:
        return (
            "the small training did not work: it did not teach rows that the stage taught, so it "
            "says nothing"
        )
    if trained.control != "unlearned":
        return (
            "the small training with nothing removed does not leave it unlearned either "
            f"({trained.control}), so it says nothing"
        )
    if "learned" in trained.placebos:
        return "a small training in which nothing of its own was removed teaches it, too"
    if not trained.removed:
        return "there is nothing to remove for this sample"
    if not any(removal not in trained.failed for removal in trained.removed):
        return "no small training without a cause of its own worked, so they say nothing"
    return ""


def _decisive(helped: list[str]) -> str | None:
    """The one removal that decides, or None."""
    specific = [removal for removal in helped if removal in SPECIFIC]
    # reading its answer teaches nearly any row: it decides only where nothing less does
    if not specific and KNOWLEDGE in helped:
        return KNOWLEDGE
    return specific[0] if len(specific) == 1 else None


def _is_too_close(cause: str, by_evidence: str | None) -> bool:
    """Whether small trainings cannot tell these two causes, if they differ."""
    close = ("insufficient_optimization", *KNOWLEDGE_CAUSES)
    return cause != by_evidence and cause in close and by_evidence in close


def _is_contradicted(diagnosis: Diagnosis, trained: Trained) -> bool:
    """Whether the evidence names a contradiction, and there are rows that contradict the sample."""
    return diagnosis.cause == "data_contradiction" and "data_contradiction" in trained.removed


def _cause_of(removal: str, diagnosis: Diagnosis) -> str:
    """The cause that a removal speaks for; of the two of knowledge the one that asking names."""
    if removal != KNOWLEDGE:
        return removal
    if diagnosis.cause in KNOWLEDGE_CAUSES:
        return diagnosis.cause
    strengths = dict.fromkeys(KNOWLEDGE_CAUSES, 0.0)
    for evidence in diagnosis.evidence.values():
        if evidence.cause in strengths:
            strengths[evidence.cause] = max(strengths[evidence.cause], evidence.strength)
    return max(strengths, key=lambda cause: strengths[cause])


def _sentence(removal: str, trained: Trained) -> str:
    """What a removal that decides has shown."""
    text = f"it is learned where {REMOVALS[removal]}, and not without that"
    others = [
        other for other in trained.removed if other != removal and other not in trained.failed
    ]
    unhelpful = [other for other in others if trained.removed[other] != "learned"]
    if unhelpful:
        text += f", nor where {' or where '.join(REMOVALS[other] for other in unhelpful)}"
    if removal == KNOWLEDGE:
        text += f"; {CANNOT_TELL}"
    return text


def _undecided_sentence(helped: list[str], trained: Trained) -> str:
    """Why no removal decides."""
    if helped:
        return f"it is learned where {', and also where '.join(REMOVALS[name] for name in helped)}"
    tried = [name for name in trained.removed if name not in trained.failed]
    return f"not learned either where {', nor where '.join(REMOVALS[name] for name in tried)}"


def _with(
    diagnosis: Diagnosis,
    verdict: str,
    reason: str,
    trained: Trained,
    by_evidence: str | None = None,
) -> Diagnosis:
    """The diagnosis with what small trainings said; `by_evidence` is the cause before them."""
    tried = [name for name in trained.removed if name not in trained.failed]
    confirmation = Confirmation.model_validate(
        {
            "verdict": verdict,
            "by_evidence": by_evidence if verdict != "undecided" else diagnosis.cause,
            "learned_without": _removals_that_helped(trained),
            "tried": tried,
            "reason": reason,
        }
    )
    return diagnosis.model_copy(update={"confirmation": confirmation})
