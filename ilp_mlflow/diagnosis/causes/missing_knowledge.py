"""The base model has no stable belief about what the sample asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ilp_mlflow.diagnosis.paper_preset import study_knowledge
from ilp_mlflow.plugin import Context, Evidence, Sample, Value, excerpt

ONCE = 0.4
"""Strength at most where the base could be asked in one way only: a firm belief would look the same."""


class MissingKnowledge(Value):
    """Asks the base model in several phrasings."""

    def examine(self, unlearned: Sequence[Sample], context: Context) -> Mapping[str, Evidence]:
        """Evidence for samples on which the base knows neither the right answer nor, firmly, another one.

        The strength is the least of what is left by the two (how improbable the right answer is, how little of a conflict the
        other) and `Belief.necessity`. In the details are the study's own tests, too: `exists` and `blind` (equations 2, 4).
        """
        found, by_options = context.beliefs(), study_knowledge(context)
        evidence = {}
        for id_, belief in ((s.id, found[s.id]) for s in unlearned if s.id in found):
            if belief.known:
                continue
            says = (
                f"says '{belief.wrong}' with {belief.confidence:.3f}"
                if belief.wrong
                else "has no answer of its own"
            )
            once = len(belief.phrasings) < 2
            study = by_options[id_]._asdict() if id_ in by_options else {}
            evidence[id_] = Evidence(
                cause="missing_knowledge",
                strength=min(
                    1 - belief.p_correct, 1 - belief.conflict, ONCE if once else 1, belief.necessity
                ),
                reason=f"asked {belief.phrasings_text}, the base gives the right answer probability {belief.p_correct:.2f} and {says}; "
                f"{belief.firm_confidence:.3f} counts as firm; {belief.necessity_text}",
                details={
                    "right": belief.p_correct,
                    "confidence": belief.confidence,
                    "firm": belief.firm_confidence,
                    "telling": belief.necessity,
                }
                | study
                | {"asked": [excerpt(prompt) for prompt in belief.phrasings]},
            )
        return evidence
