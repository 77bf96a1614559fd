"""The base model has no stable belief about what the sample asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ilp_mlflow.beliefs import KNOWN, beliefs, contradicted, firm
from ilp_mlflow.plugin import Context
from ilp_mlflow.types import Evidence, Sample, Value


class MissingKnowledge(Value):
    """Asks the base model in several phrasings."""

    def examine(self, unlearned: Sequence[Sample], context: Context) -> Mapping[str, Evidence]:
        """Evidence for samples on which the base knows neither the right answer nor, firmly, another one.

        The strength is what is left by the two: by how far the right answer is from being known, less the strength of a conflict.
        """
        found = beliefs(unlearned, context)
        reference = firm(found)
        evidence = {}
        for id_, belief in found.items():
            if belief.known:
                continue
            says = f"says '{belief.wrong}', unsurely ({belief.confidence:.2f})" if belief.wrong else "has no answer of its own"
            evidence[id_] = Evidence(
                cause="missing_knowledge",
                strength=min(1 - belief.right / (2 * KNOWN), 1 - contradicted(belief, reference)),
                reason=f"asked directly, the base gives the right answer probability {belief.right:.2f} or less, and {says}",
                details={"right": belief.right, "confidence": belief.confidence, "firm": reference, "asked": belief.phrasings},
            )
        return evidence
