"""Smaller steps, and more of them: for answers too long to be learned at the usual rate."""

from collections.abc import Sequence

from pydantic import Field

from ilp_mlflow.plugin import Context, Diagnosis, Mitigation, Plan, Stage


class Slower(Mitigation):
    """Train the stages that hold the targets at a lower learning rate, for as many more epochs."""

    cause: str = "long_completion"
    """Diagnosed cause of the samples it is for."""
    times: int = Field(default=2, ge=2)
    """The learning rate is divided, the epochs are multiplied by this."""

    def plan(self, diagnoses: Sequence[Diagnosis], context: Context) -> Plan | None:
        """For these samples; its control trains the same stages as long, at the old rate."""
        targets = tuple(d.verdict.sample_id for d in diagnoses if d.cause == self.cause)
        if not targets:
            return None
        slowed = {context.samples[i].stage for i in targets}
        stages, control = list(context.stages), list(context.stages)
        for place, stage in enumerate(context.stages):
            if stage.name in slowed:
                stages[place] = self._longer(stage, 1 / self.times)
                control[place] = self._longer(stage, 1)
        return Plan(targets=targets, stages=tuple(stages), control=tuple(control))

    def _longer(self, stage: Stage, factor: float) -> Stage:
        """The stage, `times` as long, at its learning rate times `factor`."""
        # the defaults are those of TRL's SFTConfig
        options = {"learning_rate": 2e-5, "num_train_epochs": 3, "max_steps": -1, **stage.training}
        length = "max_steps" if options["max_steps"] > 0 else "num_train_epochs"
        rate = factor * options["learning_rate"]
        changes = {"learning_rate": rate, length: self.times * options[length]}
        return stage.model_copy(update={"training": {**stage.training, **changes}})
