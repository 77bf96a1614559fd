"""The base model firmly believes something else than the sample says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ilp_mlflow.plugin import Context, Evidence, Sample, Value, excerpt


class KnowledgeConflict(Value):
    """Asks the base model in several phrasings."""

    def examine(self, unlearned: Sequence[Sample], context: Context) -> Mapping[str, Evidence]:
        """Evidence for samples of which the base does not know the right answer and gives most phrasings one other.

        The strength is `Belief.conflict`, one half where the base is as sure of it as of what it knows, or `Belief.necessity` if that
        is less.
        """
        found = context.beliefs()
        asked = {s.id: found[s.id] for s in unlearned if s.id in found}
        return {
            id_: Evidence(
                cause="knowledge_conflict",
                strength=min(belief.conflict, belief.necessity),
                reason=f"asked {belief.phrasings_text}, the base says '{belief.wrong}' with probability {belief.confidence:.3f} on average; "
                f"{belief.firm_confidence:.3f} counts as firm; {belief.necessity_text}",
                details={
                    "wrong": belief.wrong,
                    "confidence": belief.confidence,
                    "firm": belief.firm_confidence,
                    "telling": belief.necessity,
                }
                | {"asked": [excerpt(prompt) for prompt in belief.phrasings]},
            )
            for id_, belief in asked.items()
            if belief.wrong and not belief.known
        }
