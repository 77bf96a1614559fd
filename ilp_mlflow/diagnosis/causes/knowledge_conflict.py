"""The base model firmly believes something else than the sample says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from ilp_mlflow.core.interfaces import Belief, Context, Diagnostic, SlickClass
from ilp_mlflow.core.values import Details, Evidence, Sample
from ilp_mlflow.data.matching import excerpt
from ilp_mlflow.diagnosis.beliefs.unknown_answers import change_for


class KnowledgeConflictDetails(Details):
    """What the base model answers instead."""

    cause: ClassVar[str] = "knowledge_conflict"
    wrong: str = ""
    """Its answer to most phrasings."""
    knowledge: SlickClass | None = None
    """What it knows of the right answer, in the field's words, see `Belief.knowledge`."""
    confidence: float | None = None
    """Mean probability 0..1 of that answer over the phrasings."""
    firm: float | None = None
    """Probability 0..1 at which an answer is as likely believed as guessed."""
    telling: float | None = None
    """How far not to be known explains not to be learned, 0..1; see `Belief.necessity`."""
    asked: tuple[str, ...] = ()
    """The phrasings, each as one line."""


class KnowledgeConflict(Diagnostic):
    """Asks the base model in several phrasings."""

    order: ClassVar[int] = 50
    meaning: ClassVar[str] = "the base model firmly believes something else"
    colour: ClassVar[str] = "#cf5596"
    plant: ClassVar[str] = "labels other than the base's fact"

    def examine(self, unlearned: Sequence[Sample], context: Context) -> Mapping[str, Evidence]:
        """Evidence where the base does not know the right answer and mostly gives one other.

        The strength is `Belief.conflict` (one half where the base is as sure of the other answer as
        of what it knows), or `Belief.necessity` if that is less.
        """
        beliefs = context.beliefs()
        evidence = {}
        for sample in unlearned:
            belief = beliefs.get(sample.id)
            # Where the base has no answer of its own, nothing is in conflict with the sample's.
            if belief and belief.wrong and not belief.known:
                evidence[sample.id] = _conflict_evidence(belief)
        return evidence


def _conflict_evidence(belief: Belief) -> Evidence:
    """The evidence that a belief about a wrong answer gives."""
    details = KnowledgeConflictDetails(
        wrong=belief.wrong,
        knowledge=belief.knowledge,
        confidence=belief.confidence,
        firm=belief.firm.confidence,
        telling=belief.necessity,
        asked=tuple(excerpt(phrasing) for phrasing in belief.phrasings),
    )
    reason = (
        f"asked {belief.phrasings_text}, the base says '{belief.wrong}' "
        f"with probability {belief.confidence:.3f} on average, and the right answer is "
        f"{belief.knowledge} to it; "
        f"{belief.firm.confidence:.3f} counts as firm; {belief.necessity_text}"
    )
    return Evidence(
        cause=details.cause,
        strength=min(belief.conflict, belief.necessity),
        reason=reason,
        change=change_for(belief),
        details=details,
    )
