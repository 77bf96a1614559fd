"""Rows that contradict each other, both perhaps right, are never trained in the same step.

Algorithm 3 of the study (Xue et al., arXiv 2604.10079).
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from ilp_mitigations import rounds
from ilp_mlflow.plugin import (
    Batch,
    Context,
    ContradictionDetails,
    Diagnosis,
    History,
    Mitigation,
    Plan,
    Schedule,
    Stage,
)


class Bucketed(Schedule):
    """Every sample as often as another, in random order, rivals never in one optimizer step."""

    rivals: dict[str, tuple[str, ...]]
    """Samples that contradict each other, by id, each named on one side at least."""
    every: int | None = None
    """Optimizer steps from one look at the rivals to the next; None keeps them apart to the end."""

    def next_round(self, history: History) -> Sequence[Batch] | None:
        """The next `every` steps, or one pass; pairs that are both reproduced may meet again."""
        per_step = history.batch_size * history.accumulation
        if self.every is None:
            rivals = self.rivals_by_id()
            n = len(history.sample_ids)
        else:
            rivals = self._rivals_left(history)
            n = min(self.every, history.steps_left) * per_step
        rng = rounds.round_rng(history)
        visits = rounds.count_visits(history)
        chosen = rounds.draw_least_seen(history.sample_ids, n, visits, rng)
        rng.shuffle(chosen)
        steps = pack_steps(chosen, rivals, per_step, rng)
        # packed by number of rivals, so the first steps would hold the most contested samples
        rng.shuffle(steps)
        batches: list[Batch] = []
        for step in steps:
            batches += _split(step, history.accumulation)
        return batches

    def rivals_by_id(self) -> dict[str, set[str]]:
        """The rivals of every sample that has any, by id, each named on both sides."""
        by_id: dict[str, set[str]] = {}
        for sample_id, others in self.rivals.items():
            for other in others:
                by_id.setdefault(sample_id, set()).add(other)
                by_id.setdefault(other, set()).add(sample_id)
        return by_id

    def _rivals_left(self, history: History) -> dict[str, set[str]]:
        """The rivals without the pairs of which the model reproduces both by now."""
        rivals = self.rivals_by_id()
        results = history.measure(sorted(rivals))
        reproduced = {i for i, result in results.items() if result.token_accuracy == 1}
        for sample_id in reproduced:
            # a reproduced sample stays apart from rivals that are not reproduced yet
            rivals[sample_id] -= reproduced
        return rivals


def pack_steps(
    ids: Sequence[str], rivals: Mapping[str, Collection[str]], size: int, rng: random.Random
) -> list[list[str]]:
    """The ids in steps of at most `size`, no two rivals in one step.

    As few steps as hold all ids, or more where the rivals cannot be kept apart in those.
    """
    steps: list[list[str]] = [[] for _ in range(math.ceil(len(ids) / size))]

    # those with the most rivals first, while there is room everywhere
    for id_ in sorted(ids, key=lambda i: -len(rivals.get(i, ()))):
        rivals_of_it = set(rivals.get(id_, ()))
        open_steps = []
        for step in steps:
            if len(step) < size and rivals_of_it.isdisjoint(step):
                open_steps.append(step)
        if not open_steps:
            open_steps = [[]]
            steps += open_steps
        if rivals_of_it:
            # spread over the steps: filled up one by one, the last ones would hold rivals only
            rng.choice(open_steps).append(id_)
        else:
            open_steps[0].append(id_)

    return [step for step in steps if step]


def _split(step: Sequence[str], accumulation: int) -> list[Batch]:
    """The batches of one step, about as long as each other; for lack of samples, one again."""
    return [step[k::accumulation] or step[:1] for k in range(accumulation)]


class ConflictBucketing(Mitigation):
    """Keep both sides of a contradiction and never train them in the same step."""

    prior: ClassVar[float] = 0.1
    """Net recovery 0..1 expected before any trial, from worlds of the lab (docs/results.md)."""

    which: Literal["undecided", "all"] = "undecided"
    """Contradictions of which it is not known which side is wrong, or all of them."""
    dynamic: bool = True
    """Look every so often which contradictions are still there."""
    every: int = Field(default=500, ge=1)
    """Optimizer steps from one look to the next."""

    def plan(self, diagnoses: Sequence[Diagnosis], context: Context) -> Plan | None:
        """For samples that others contradict; its control trains as long, without separation."""
        rivals: dict[str, tuple[str, ...]] = {}
        for diagnosis in diagnoses:
            if diagnosis.cause == "data_contradiction":
                details = diagnosis.details(ContradictionDetails)
                if not details or not details.rows:
                    continue
                if self.which == "all" or details.both_may_be_right:
                    rivals[diagnosis.verdict.sample_id] = details.rows
        if not rivals:
            return None
        schedule = Bucketed(rivals=rivals, every=self.every if self.dynamic else None)
        stages: list[Stage] = []
        control: list[Stage] = []
        for stage in context.stages:
            if _holds_both(stage, rivals):
                roomy = _with_room(stage, schedule)
                stages.append(roomy.model_copy(update={"schedule": schedule}))
                control.append(roomy)
            else:
                stages.append(stage)
                control.append(stage)
        return Plan(targets=tuple(rivals), stages=tuple(stages), control=tuple(control))


def _with_room(stage: Stage, schedule: Bucketed) -> Stage:
    """The stage with as many steps as it takes to keep the rivals apart and leave no sample out."""
    ids = [row.id for row in stage.samples]
    steps = len(pack_steps(ids, schedule.rivals_by_id(), stage.per_step, random.Random(0)))
    if steps <= stage.steps_per_pass:
        return stage
    training = {**stage.training, "max_steps": math.ceil(stage.visits * steps)}
    return stage.model_copy(update={"training": training})


def _holds_both(stage: Stage, rivals: Mapping[str, Sequence[str]]) -> bool:
    """Whether any two rivals are in the stage: in different stages they are apart anyway."""
    ids = {row.id for row in stage.samples}
    for sample_id, others in rivals.items():
        if sample_id in ids and not ids.isdisjoint(others):
            return True
    return False
