"""What the base believes wrongly: it is read about first (Algorithm 2 of the study, arXiv 2604.10079)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ilp_mitigations.continued import Continued
from ilp_mlflow.plugin import Context, Diagnosis, Plan, Request


class BeliefCorrection(Continued):
    """Continued pre-training for `knowledge_conflict`."""

    prior: ClassVar[float] = 0.8
    """Net recovery 0..1 to expect before anything was tried: about what it was on worlds of the lab (docs/results.md)."""

    def plan(self, diagnoses: Sequence[Diagnosis], context: Context) -> Plan | Request | None:
        """Texts that tell the right answers, among general ones that do not tell the base's, then all stages as they were."""
        return self.reading("knowledge_conflict", diagnoses, context)
