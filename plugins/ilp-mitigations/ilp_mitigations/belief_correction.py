"""Texts about what the base model believes wrongly are read before the fine-tuning.

Algorithm 2 of the study (Xue et al., arXiv 2604.10079).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ilp_mitigations.continued import Continued
from ilp_mlflow.plugin import Context, Diagnosis, Plan, Request


class BeliefCorrection(Continued):
    """Continued pre-training for `knowledge_conflict`."""

    prior: ClassVar[float] = 0.8
    """Net recovery 0..1 expected before any trial, from worlds of the lab (docs/results.md)."""

    def plan(self, diagnoses: Sequence[Diagnosis], context: Context) -> Plan | Request | None:
        """Texts that tell the right answers, then all stages as they were.

        General texts among them do not tell the wrong answers that the base gives.
        """
        return self.plan_reading("knowledge_conflict", diagnoses, context)
