"""Too little signal: one more pass at a time, until it harms (Algorithm 5 and eq. 7 of the study, arXiv 2604.10079)."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import Field

from ilp_mitigations import recipe
from ilp_mlflow.plugin import (
    Batch,
    Context,
    Diagnosis,
    History,
    Plan,
    Request,
    Sample,
    SampleResult,
    Stage,
    Value,
)


class UntilRise(Value):
    """Passes in random order until the loss of the validation samples has risen, and back to where it was lowest."""

    most: int
    """Passes at most."""
    delta: float
    """Rise above the lowest loss so far that ends it, nats per token."""

    def next_round(self, history: History) -> Sequence[Batch] | None:
        """One more pass, or None."""
        now = _loss(history.measure(history.validation), history.validation)
        before = [_loss(r.measured, history.validation) for r in history.rounds]
        if now < min(before, default=math.inf):
            history.keep()
        if len(before) == self.most or now > min([*before, now]) + self.delta:
            return None
        ids = sorted(history.sample_ids)
        random.Random(f"{history.seed}/{len(history.rounds)}").shuffle(ids)
        batches = [ids[k : k + history.batch_size] for k in range(0, len(ids), history.batch_size)]
        return batches + [
            batches[k % len(batches)] for k in range(-len(batches) % history.accumulation)
        ]


def _loss(results: Mapping[str, SampleResult], ids: Sequence[str]) -> float:
    """Mean loss of samples, nats per token; 0 where none of them can be read."""
    return sum(results[i].loss for i in ids) / max(1, len(ids))


class ProgressiveEpochs(Value):
    """Behind each stage that holds targets, train its rows for one more epoch at a time, until that harms what is held out.

    At a constant learning rate: one that falls to 0 would make a plateau of its own. It mostly teaches by rote; see `augment_rare`.
    """

    prior: ClassVar[float] = 0.1
    """Net recovery 0..1 to expect before anything was tried: about what it was on worlds of the lab (docs/results.md)."""

    more: int = Field(default=8, ge=1)
    """Epochs beyond those of the stage, at most."""
    delta: float = Field(default=0.01, ge=0)
    """Rise of the validation loss above its lowest that ends it, nats per token."""
    rate: float = Field(default=0.1, gt=0)
    """Learning rate of these epochs, as a multiple of the stage's."""
    looked_at: int = Field(default=200, ge=1)
    """Held-out rows whose loss is looked at, at most."""

    def plan(self, diagnoses: Sequence[Diagnosis], context: Context) -> Plan | Request | None:
        """For the samples that got too little signal; the control are the stages as they were."""
        targets = recipe.targets(diagnoses, "insufficient_optimization")
        if not targets:
            return None
        if not context.held_out:
            reason = "held-out rows wanted, to see when more epochs begin to harm; set 'held_out' of the experiment"
            return Request(targets=targets, wanted={"held-out rows": self.looked_at}, reason=reason)
        drawn = recipe.sampled(context.held_out, self.looked_at, "validation")
        held = tuple(s.model_copy(update={"id": f"held out {s.id}"}) for s in drawn)
        ids, stages = set(targets), []
        for stage in context.stages:
            stages.append(stage)
            if any(row.id in ids for row in stage.samples):
                stages.append(self._behind(stage, held))
        return Plan(targets=targets, stages=tuple(stages))

    def _behind(self, stage: Stage, held: tuple[Sample, ...]) -> Stage:
        # room for one pass more than it may take: the last one is looked at, too
        steps = (self.more + 1) * (stage.steps_per_pass + 1)
        rate = self.rate * stage.training.get("learning_rate", recipe.LEARNING_RATE)
        training = {
            **stage.training,
            "max_steps": steps,
            "learning_rate": rate,
            "lr_scheduler_type": "constant_with_warmup",
        }
        schedule = UntilRise(most=self.more, delta=self.delta)
        changes = {
            "name": f"{stage.name}-on",
            "training": training,
            "schedule": schedule,
            "validation": held,
        }
        return stage.model_copy(update=changes)
