"""Plain retraining: what another seed alone changes. Every other mitigation has its own control."""

from __future__ import annotations

from collections.abc import Sequence

from ilp_mlflow.plugin import Context, Diagnosis, Mitigation, Plan


class Control(Mitigation):
    """Train every stage again from the base; what is trained again gets another seed anyway."""

    def plan(self, diagnoses: Sequence[Diagnosis], context: Context) -> Plan:
        """All stages as they were, for all unlearned samples."""
        targets = tuple(d.verdict.sample_id for d in diagnoses)
        return Plan(targets=targets, stages=tuple(context.stages))
