"""The base model has no stable belief about what the sample asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from ilp_mlflow.core.interfaces import Belief, Context, Diagnostic, SlickClass
from ilp_mlflow.core.values import Details, Evidence, Sample
from ilp_mlflow.data.matching import excerpt
from ilp_mlflow.diagnosis.beliefs.unknown_answers import change_for
from ilp_mlflow.diagnosis.paper_preset import Knowledge, study_knowledge

MAX_ASKED_ONCE = 0.4
"""Largest strength where the base was asked in one way only: a firm belief would look the same."""


class MissingKnowledgeDetails(Details):
    """What the base model knows of the answer."""

    cause: ClassVar[str] = "missing_knowledge"
    right: float | None = None
    """Probability 0..1 of the right answer."""
    knowledge: SlickClass | None = None
    """The same in the field's words, see `Belief.knowledge`."""
    confidence: float | None = None
    """Mean probability 0..1 of the answer that it gives to most phrasings."""
    firm: float | None = None
    """Probability 0..1 at which an answer is as likely believed as guessed."""
    telling: float | None = None
    """How far not to be known explains not to be learned, 0..1; see `Belief.necessity`."""
    exists: bool | None = None
    """The study's test of knowledge (equation 2); not set for samples without options."""
    blind: bool | None = None
    """The study's test of blindness (equation 4); not set for samples without options."""
    asked: tuple[str, ...] = ()
    """The phrasings, each as one line."""


class MissingKnowledge(Diagnostic):
    """Asks the base model in several phrasings."""

    order: ClassVar[int] = 60
    meaning: ClassVar[str] = "the base model does not know what it builds on"
    colour: ClassVar[str] = "#26997f"
    plant: ClassVar[str] = "facts the base was never told"

    def examine(self, unlearned: Sequence[Sample], context: Context) -> Mapping[str, Evidence]:
        """Evidence where the base knows neither the right answer nor, firmly, another one.

        The strength is the least of three: how improbable the right answer is, how little of a
        conflict the other one is, and `Belief.necessity`.
        """
        beliefs = context.beliefs()
        study = study_knowledge(context)
        evidence = {}
        for sample in unlearned:
            belief = beliefs.get(sample.id)
            if belief and not belief.known:
                evidence[sample.id] = _missing_evidence(belief, study.get(sample.id))
        return evidence


def _missing_evidence(belief: Belief, study: Knowledge | None) -> Evidence:
    """The evidence that a belief gives, with what the study's own tests say where they apply."""
    details = MissingKnowledgeDetails(
        right=belief.p_correct,
        knowledge=belief.knowledge,
        confidence=belief.confidence,
        firm=belief.firm.confidence,
        telling=belief.necessity,
        asked=tuple(excerpt(phrasing) for phrasing in belief.phrasings),
    )
    if study:
        details = details.model_copy(update={"exists": study.exists, "blind": study.blind})
    strength = min(1 - belief.p_correct, 1 - belief.conflict, belief.necessity)
    # Of one answer nobody knows whether it is a firm belief in something else.
    if len(belief.phrasings) < 2:
        strength = min(strength, MAX_ASKED_ONCE)
    answer = "has no answer of its own"
    if belief.wrong:
        answer = f"says '{belief.wrong}' with {belief.confidence:.3f}"
    reason = (
        f"asked {belief.phrasings_text}, the base gives the right answer probability "
        f"{belief.p_correct:.2f} ({belief.knowledge}) "
        f"and {answer}; {belief.firm.confidence:.3f} counts as firm; {belief.necessity_text}"
    )
    return Evidence(
        cause=details.cause,
        strength=strength,
        reason=reason,
        change=change_for(belief),
        details=details,
    )
