"""The control arm: the same stages with the same steps and nothing targeted, so only chance differs."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from ilp_mlflow import Context, Diagnosis, Plan, Value


class Control(Value):
    """Train every stage again from the base with another seed."""

    offset: int = Field(default=1, ge=1)
    """Added to the seed of every stage."""

    def plan(self, diagnoses: Sequence[Diagnosis], context: Context) -> Plan:
        """All stages as they were, for all unlearned samples."""
        stages = [
            s.model_copy(update={"training": {**s.training, "seed": s.training["seed"] + self.offset}, "score_every": None})
            for s in context.stages
        ]
        targets = tuple(d.verdict.sample_id for d in diagnoses)
        return Plan(targets=targets, start_from=context.checkpoints[0].name, stages=tuple(stages))
