"""Texts about what the base model does not know are read before the fine-tuning.

Algorithm 1 of the study (Xue et al., arXiv 2604.10079).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ilp_mitigations.continued import Continued
from ilp_mlflow.plugin import Context, Diagnosis, Plan, Request


class KnowledgeAugmentation(Continued):
    """Continued pre-training for `missing_knowledge`."""

    prior: ClassVar[float] = 0.85
    """Net recovery 0..1 expected before any trial, from worlds of the lab (docs/results.md)."""

    def plan(self, diagnoses: Sequence[Diagnosis], context: Context) -> Plan | Request | None:
        """Texts that tell the right answers, among general ones, then all stages as they were."""
        return self.plan_reading("missing_knowledge", diagnoses, context)
