"""The control arm: the same stages with the same steps and nothing targeted, so only chance differs."""

from __future__ import annotations

from collections.abc import Sequence

from ilp_mlflow import Context, Diagnosis, Plan, Value


class Control(Value):
    """Train every stage again from the base with another seed."""

    seed: int = 1
    """Seed of the second training; give another one than the experiment's."""

    def plan(self, diagnoses: Sequence[Diagnosis], context: Context) -> Plan:
        """All stages as they were, for all unlearned samples."""
        stages = [s.model_copy(update={"training": {**s.training, "seed": self.seed}, "score_every": None}) for s in context.stages]
        targets = tuple(d.verdict.sample_id for d in diagnoses)
        return Plan(targets=targets, start_from=context.checkpoints[0].name, stages=tuple(stages))
