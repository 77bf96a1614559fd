"""Trainings that began with another model than the base that they are diagnosed with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from ilp_mlflow.core.training_log import LogEntry
from ilp_mlflow.core.values import Sample, Subject
from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.diagnosis.faults.fault import Fault
from ilp_mlflow.diagnosis.faults.optimization.logged_loss import (
    BAND,
    MARKS,
    TIMES,
    LossGap,
    answers_alone,
    mean_loss,
    measure_gap,
    of_answers_at_most,
)
from ilp_mlflow.diagnosis.faults.stage_scores import RowLoss, row_losses
from ilp_mlflow.diagnosis.loss_course import finite_entries, loss_of

THE_RIGHT_BASE = "give the base that it was trained on: that very model, in that version"
IF_ANSWERS_ALONE = 0.8
"""How sure it is where prompts in the loss could make a log begin so low, too."""
SPREADS = 3.0
"""Beside the band of a loss gap, the rows must lose so many standard deviations of a batch's mean
more: the first entry is of a few rows."""


class Beginning(NamedTuple):
    """The loss of the rows of a stage before it, in two ways, nats per token."""

    scored: float
    """Under the earlier checkpoint that does best on them."""
    checkpoint: str
    """That checkpoint."""
    logged: float
    """In the first entry of the log."""
    step: int
    """The step of that entry."""
    bound: float
    """What the logged loss may stand for at most, if all of it were that of the answers."""
    chance: float
    """By how much a batch may differ from all rows."""

    @property
    def is_another(self) -> bool:
        """Whether the training began with a model that is better on its rows than any here."""
        return self._is_above(self.bound)

    @property
    def is_another_for_answers(self) -> bool:
        """The same, if nothing but answers was in the loss."""
        return self._is_above(self.logged)

    def _is_above(self, loss: float) -> bool:
        return self.scored > TIMES * loss + BAND + self.chance


def find_other_bases(facts: RunFacts) -> list[Fault]:
    """Stages whose log begins far below what their rows lose before them: with another model.

    Where what they ended with does worse than their log, too, they are put on the wrong base, and
    nothing else is looked for in their rows; else they are whole, and the base alone is another.
    """
    faults = []
    for stage in facts.context.taught:
        began, ended = measure_beginning(facts, stage), measure_gap(facts, stage)
        if began is None:
            continue
        # a full model is put on nothing, so that its base cannot be to blame for its end
        is_adapter = facts.logs[stage].number("r") is not None
        if ended is not None and ended.is_wide and is_adapter and began.is_another_for_answers:
            faults.append(_put_on_another(facts, stage, began, ended))
        elif began.is_another:
            faults.append(_began_with_another(stage, began))
    return faults


def _put_on_another(facts: RunFacts, stage: str, began: Beginning, ended: LossGap) -> Fault:
    """An adapter on another base than its own."""
    return Fault(
        kind="other_base",
        cause="faulty_checkpoint",
        reason=(
            f"its adapter is put on another base than it was trained on: {_how_it_began(began)}, "
            f"and it ended at {ended.logged:.2f}, where they lose {ended.scored:.2f}"
        ),
        change=THE_RIGHT_BASE,
        strength=1.0 if began.is_another else IF_ANSWERS_ALONE,
        subject=Subject(kind="checkpoint", name=stage),
        samples=_unlearned_of(facts, stage),
        stops=True,
    )


def _began_with_another(stage: str, began: Beginning) -> Fault:
    """A model that is whole, and was not trained from the base."""
    return Fault(
        kind="other_base",
        cause="faulty_checkpoint",
        reason=(
            f"it was not trained from '{began.checkpoint}': {_how_it_began(began)}, so what is "
            "said of the base is said of another model"
        ),
        change=THE_RIGHT_BASE,
        subject=Subject(kind="checkpoint", name=stage),
    )


def _how_it_began(began: Beginning) -> str:
    return (
        f"the log of its training begins with {began.logged:.2f} nats per token (step "
        f"{began.step}), its rows lose {began.scored:.2f} under '{began.checkpoint}'"
    )


def measure_beginning(facts: RunFacts, stage: str) -> Beginning | None:
    """The loss of a stage's rows before it and as its training began; None where not both known.

    That is the first entry of its log, if it is of the first step or at least of the first pass.
    """
    context = facts.context
    if stage not in facts.logs:
        return None
    first = _first_entry(facts, stage)
    samples = [sample for sample in context.samples.values() if sample.stage == stage]
    if first is None or not answers_alone(samples, facts.accounts, MARKS):
        return None
    found = []
    names = [checkpoint.name for checkpoint in context.checkpoints]
    for name in names[: names.index(stage)]:
        losses = row_losses(context, name)
        scored = [losses[sample.id] for sample in samples if sample.id in losses]
        if scored:
            found.append((mean_loss(scored), name, losses))
    if not found:
        return None
    scored_loss, checkpoint, losses = min(found, key=lambda earlier: earlier[0])
    logged = loss_of(first)
    of_these = [sample for sample in samples if sample.id in losses]
    return Beginning(
        scored=scored_loss,
        checkpoint=checkpoint,
        logged=logged,
        step=first.step,
        bound=of_answers_at_most(logged, of_these, losses, facts.accounts),
        chance=_chance(facts, stage, of_these, losses),
    )


def _first_entry(facts: RunFacts, stage: str) -> LogEntry | None:
    """The first entry with a loss of a stage's log; None where rows were seen twice by then."""
    entries = finite_entries(facts.logs[stage])
    if not entries:
        return None
    first = entries[0]
    in_first_pass = first.epoch is not None and first.epoch <= 1
    return first if first.step == 1 or in_first_pass else None


def _chance(
    facts: RunFacts, stage: str, samples: list[Sample], losses: Mapping[str, RowLoss]
) -> float:
    """SPREADS standard deviations of the mean of a batch, nats per token."""
    means = [losses[sample.id].mean for sample in samples]
    middle = sum(means) / len(means)
    variance = sum((mean - middle) ** 2 for mean in means) / len(means)
    return SPREADS * math.sqrt(variance / facts.logs[stage].batch_rows)


def _unlearned_of(facts: RunFacts, stage: str) -> tuple[str, ...]:
    """Ids of the unlearned samples of a stage."""
    samples = facts.context.samples
    return tuple(id_ for id_ in facts.unlearned if samples[id_].stage == stage)
