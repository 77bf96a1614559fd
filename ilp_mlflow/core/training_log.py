"""What a training logged of itself, step by step."""

from __future__ import annotations

from pydantic import Field

from ilp_mlflow.core.value import Value


class LogEntry(Value):
    """One line of a training's log, as `transformers.Trainer` writes it."""

    step: int
    """Optimizer step, from 1."""
    epoch: float | None = None
    """Passes over the data by then."""
    loss: float | None = None
    """Mean loss of the tokens in the loss since the last entry, nats per token."""
    grad_norm: float | None = None
    """Norm of the gradient before it was clipped; None where none was logged, nan or inf where it
    was not finite."""
    learning_rate: float | None = None
    """Learning rate at that step."""


class TrainingLog(Value):
    """The log of one stage, and those of its settings that the log is read with."""

    stage: str
    """The stage."""
    source: str
    """Where it was read: `trainer_state.json` with its folder, or "" for a training followed here.
    """
    entries: tuple[LogEntry, ...]
    """In the order of steps."""
    steps: int
    """Optimizer steps that were made; 0 where that is not known."""
    kept_step: int | None = None
    """The step whose weights were kept (`load_best_model_at_end`); None: the last."""
    settings: dict[str, float | int | str | bool | None] = Field(default_factory=dict)
    """Settings of the trainer by the name that `TrainingArguments` gives them, as far as they are
    known: `warmup_steps`, `max_grad_norm`, `gradient_accumulation_steps` and the like; and those of
    a LoRA adapter that scale it: `r`, `lora_alpha`, `use_rslora`."""

    @property
    def kept(self) -> tuple[LogEntry, ...]:
        """The entries up to the weights that were kept."""
        if self.kept_step is None:
            return self.entries
        return tuple(entry for entry in self.entries if entry.step <= self.kept_step)

    @property
    def batch_rows(self) -> float:
        """Rows of an optimizer step; 1 where that is not known."""
        size = self.number("per_device_train_batch_size") or self.number("train_batch_size")
        return (size or 1) * (self.number("gradient_accumulation_steps") or 1)

    def number(self, name: str) -> float | None:
        """A setting that is a number; None where it is not known."""
        value = self.settings.get(name)
        return None if value is None or isinstance(value, str | bool) else float(value)


class LossCourse(Value):
    """How the loss of a stage went, nats per token."""

    source: str
    """Where it was read: `signals` of training, or the log."""
    first: float
    """At the beginning."""
    before: float
    """In the last pass over the data but one, or in the middle third of the training."""
    last: float
    """In the last pass, or in the last third."""
    falls: bool | None
    """Whether it was still falling at the end, beyond chance; None where too little was logged to
    tell."""
    steps: int = 0
    """Optimizer steps that were made; 0 where that is not known."""
    from_start: bool = True
    """Whether the first loss is of the very first step, so that a jump behind it would show."""

    @property
    def fell(self) -> float:
        """Share by which it fell at last; negative where it rose."""
        return 1 - self.last / self.before if self.before > 0 else 0.0
