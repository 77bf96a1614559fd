"""Plain retraining: what another seed alone would change. Every other mitigation is set against a control of its own."""

from __future__ import annotations

from collections.abc import Sequence

from ilp_mlflow.plugin import Context, Diagnosis, Plan, Value


class Control(Value):
    """Train every stage again from the base; the core gives all that is trained again another seed."""

    def plan(self, diagnoses: Sequence[Diagnosis], context: Context) -> Plan:
        """All stages as they were, for all unlearned samples."""
        return Plan(
            targets=tuple(d.verdict.sample_id for d in diagnoses), stages=tuple(context.stages)
        )
