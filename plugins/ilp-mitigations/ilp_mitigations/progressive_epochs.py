"""Rows that got too little signal are trained for one more pass at a time, until it harms.

Algorithm 5 and equation 7 of the study (Xue et al., arXiv 2604.10079).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import Field

from ilp_mitigations import recipe, rounds
from ilp_mlflow.plugin import (
    Batch,
    Context,
    Diagnosis,
    History,
    Mitigation,
    Plan,
    Request,
    Sample,
    SampleResult,
    Schedule,
    Stage,
)


class UntilRise(Schedule):
    """Passes in random order until the validation loss has risen; then back to its lowest."""

    most: int
    """Passes at most."""
    delta: float
    """Rise above the lowest loss so far that ends it, nats per token."""

    def next_round(self, history: History) -> Sequence[Batch] | None:
        """One more pass, or None."""
        now = _mean_loss(history.measure(history.validation), history.validation)
        before = [_mean_loss(done.measured, history.validation) for done in history.rounds]
        # where the stage stops, it ends with the model that was kept last
        if now < min(before, default=math.inf):
            history.keep()
        lowest = min([*before, now])
        # a loss that is no number is not below anything, and ends it, too
        stays_low = now <= lowest + self.delta
        if len(before) == self.most or not stays_low:
            return None
        return _shuffled_pass(history)


def _shuffled_pass(history: History) -> list[Batch]:
    """Batches of every sample once, in random order."""
    ids = sorted(history.sample_ids)
    rounds.round_rng(history).shuffle(ids)
    batches: list[Batch] = []
    for start in range(0, len(ids), history.batch_size):
        batches.append(ids[start : start + history.batch_size])
    # whole optimizer steps: the first batches again, until the last step is full
    n_missing = -len(batches) % history.accumulation
    again = itertools.cycle(batches)
    return [*batches, *itertools.islice(again, n_missing)]


def _mean_loss(results: Mapping[str, SampleResult], ids: Sequence[str]) -> float:
    """Mean loss of samples, nats per token; 0 where there are none."""
    return sum(results[i].loss for i in ids) / max(1, len(ids))


class ProgressiveEpochs(Mitigation):
    """Behind each stage that holds targets, train its rows for one more epoch at a time, until
    that harms what is held out.

    At a constant learning rate: one that falls to 0 would make a plateau of its own. It mostly
    teaches by rote; see `augment_rare`.
    """

    prior: ClassVar[float] = 0.1
    """Net recovery 0..1 expected before any trial, from worlds of the lab (docs/results.md)."""

    more: int = Field(default=8, ge=1)
    """Epochs beyond those of the stage, at most."""
    delta: float = Field(default=0.01, ge=0)
    """Rise of the validation loss above its lowest that ends it, nats per token."""
    rate: float = Field(default=0.1, gt=0)
    """Learning rate of these epochs, as a multiple of the stage's."""
    looked_at: int = Field(default=200, ge=1)
    """Held-out rows whose loss is looked at, at most."""

    def plan(self, diagnoses: Sequence[Diagnosis], context: Context) -> Plan | Request | None:
        """For the samples that got too little signal; its control is the stages as they were."""
        targets = recipe.find_targets(diagnoses, "insufficient_optimization")
        if not targets:
            return None
        if not context.held_out:
            return self._request_held_out(targets)
        validation = []
        for row in recipe.sample_rows(context.held_out, self.looked_at, "validation"):
            validation.append(recipe.with_id(row, f"held out {row.id}"))
        target_ids = set(targets)
        stages = []
        for stage in context.stages:
            stages.append(stage)
            if any(row.id in target_ids for row in stage.samples):
                stages.append(self._continue_stage(stage, tuple(validation)))
        return Plan(targets=targets, stages=tuple(stages))

    def _request_held_out(self, targets: tuple[str, ...]) -> Request:
        """Asks for rows whose loss can be watched."""
        # the targets cannot tell: they would be learned by rote
        reason = (
            "held-out rows wanted, to see when more epochs begin to harm; "
            "set 'held_out' of the experiment"
        )
        wanted = {"held-out rows": self.looked_at}
        return Request(targets=targets, wanted=wanted, reason=reason)

    def _continue_stage(self, stage: Stage, validation: tuple[Sample, ...]) -> Stage:
        """A stage that goes on with the rows of another one."""
        rate = self.rate * stage.training.get("learning_rate", recipe.DEFAULT_LEARNING_RATE)
        # room for one pass more than it may take: the last one is looked at, too
        max_steps = (self.more + 1) * (stage.steps_per_pass + 1)
        training = {
            **stage.training,
            "max_steps": max_steps,
            "learning_rate": rate,
            "lr_scheduler_type": "constant_with_warmup",
        }
        changes = {
            "name": f"{stage.name}-on",
            "training": training,
            "schedule": UntilRise(most=self.more, delta=self.delta),
            "validation": validation,
        }
        return stage.model_copy(update=changes)
