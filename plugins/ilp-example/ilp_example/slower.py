"""Smaller steps, and more of them: for answers too long to be learned at the stage's learning rate."""

from collections.abc import Sequence

from pydantic import Field

from ilp_mlflow.plugin import Context, Diagnosis, Plan, Stage, Value


class Slower(Value):
    """Train the stages that hold the targets at a lower learning rate, for as many more epochs."""

    cause: str = "long_completion"
    """Diagnosed cause of the samples it is for."""
    times: int = Field(default=2, ge=2)
    """The learning rate is divided, the epochs are multiplied by this."""

    def plan(self, diagnoses: Sequence[Diagnosis], context: Context) -> Plan | None:
        """For these samples, from their first stage on; the control trains as many epochs at the old rate."""
        targets = tuple(d.verdict.sample_id for d in diagnoses if d.cause == self.cause)
        held = {context.samples[i].stage for i in targets}
        remedy = tuple(
            self._longer(s, 1 / self.times) if s.name in held else s for s in context.stages
        )
        control = tuple(self._longer(s, 1) if s.name in held else s for s in context.stages)
        return Plan(targets=targets, stages=remedy, control=control) if targets else None

    def _longer(self, stage: Stage, rate: float) -> Stage:
        """The stage for more epochs, or steps where it counts those, at `rate` times its learning rate; defaults are TRL's."""
        given = {"learning_rate": 2e-5, "num_train_epochs": 3, "max_steps": -1, **stage.training}
        length = "max_steps" if given["max_steps"] > 0 else "num_train_epochs"
        changed = {
            "learning_rate": rate * given["learning_rate"],
            length: self.times * given[length],
        }
        return stage.model_copy(update={"training": {**stage.training, **changed}})
