"""The base model firmly believes something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ilp_mlflow.beliefs import beliefs, contradicted, firm
from ilp_mlflow.plugin import Context
from ilp_mlflow.types import Evidence, Sample, Value


class KnowledgeConflict(Value):
    """Asks the base model in several phrasings."""

    def examine(self, unlearned: Sequence[Sample], context: Context) -> Mapping[str, Evidence]:
        """Evidence for samples on which the base gives one specific other answer as surely as what it knows."""
        found = beliefs(unlearned, context)
        reference = firm(found)
        return {
            id_: Evidence(
                cause="knowledge_conflict",
                strength=contradicted(belief, reference),
                reason=f"however it is asked, the base says '{belief.wrong}' with probability {belief.confidence:.2f} or more",
                details={"wrong": belief.wrong, "confidence": belief.confidence, "firm": reference, "asked": belief.phrasings},
            )
            for id_, belief in found.items()
            if belief.wrong and not belief.known
        }
