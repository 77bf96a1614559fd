"""Data that contradicts itself where both sides may be right: never in one step (Algorithm 3 of the study, arXiv 2604.10079)."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from ilp_mlflow.plugin import (
    Batch,
    Context,
    ContradictionDetails,
    Diagnosis,
    History,
    Plan,
    Stage,
    Value,
)


class Bucketed(Value):
    """Every sample as often as another, in random order, rivals never in the same optimizer step."""

    rivals: dict[str, tuple[str, ...]]
    """Samples that contradict each other, by id, each named on one side at least."""
    every: int | None = None
    """Optimizer steps from one look at the rivals to the next; None keeps them apart to the end."""

    def next_round(self, history: History) -> Sequence[Batch] | None:
        """The next `every` steps, or one pass; rivals that are both reproduced by now are none any more."""
        apart = self.apart()
        if self.every is not None:
            now = history.measure(sorted(apart))
            right = {i for i, result in now.items() if result.token_accuracy == 1}
            apart = {i: others - right if i in right else others for i, others in apart.items()}
        per_step = history.batch_size * history.accumulation
        n = (
            len(history.sample_ids)
            if self.every is None
            else min(self.every, history.steps_left) * per_step
        )
        seen = Counter(i for r in history.rounds for batch in r.batches for i in batch)
        rng = random.Random(f"{history.seed}/{len(history.rounds)}")
        order = sorted(history.sample_ids, key=lambda i: (seen[i], rng.random()))
        chosen = [order[k % len(order)] for k in range(n)]
        rng.shuffle(chosen)
        steps = packed(chosen, apart, per_step, rng)
        rng.shuffle(steps)
        return [batch for step in steps for batch in _split(step, history.accumulation)]

    def apart(self) -> dict[str, set[str]]:
        """The rivals of every sample that has any, by id."""
        found: dict[str, set[str]] = {}
        for one, others in self.rivals.items():
            for other in others:
                found.setdefault(one, set()).add(other)
                found.setdefault(other, set()).add(one)
        return found


def packed(
    ids: Sequence[str], apart: Mapping[str, Collection[str]], size: int, rng: random.Random
) -> list[list[str]]:
    """The ids in steps of at most `size`, as few as that allows, no two that are to be `apart` in one; more where it cannot be."""
    steps: list[list[str]] = [[] for _ in range(-(-len(ids) // size))]
    # those with the most rivals while there is room everywhere
    for id_ in sorted(ids, key=lambda i: -len(apart.get(i, ()))):
        rivals = set(apart.get(id_, ()))
        open_ = [s for s in steps if len(s) < size and not rivals.intersection(s)]
        if not open_:
            steps.append([])
            open_ = steps[-1:]
        (rng.choice(open_) if rivals else open_[0]).append(id_)
    return [s for s in steps if s]


def _split(step: Sequence[str], accumulation: int) -> list[Batch]:
    """The batches of one step, as long as each other; where there are too few samples, one of them again."""
    return [step[k::accumulation] or step[:1] for k in range(accumulation)]


class ConflictBucketing(Value):
    """Keep both sides of a contradiction and never train them in the same step."""

    prior: ClassVar[float] = 0.1
    """Net recovery 0..1 to expect before anything was tried: about what it was on worlds of the lab (docs/results.md)."""

    which: Literal["undecided", "all"] = "undecided"
    """Contradictions of which it is not known which side is wrong, or all of them."""
    dynamic: bool = True
    """Look every so often which contradictions are still there."""
    every: int = Field(default=500, ge=1)
    """Optimizer steps from one look to the next."""

    def plan(self, diagnoses: Sequence[Diagnosis], context: Context) -> Plan | None:
        """For the samples that others contradict; the control is the same training without any separation."""
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
        roomy = [_with_room(s, schedule) if _holds_both(s, rivals) else s for s in context.stages]
        stages = [
            s.model_copy(update={"schedule": schedule}) if _holds_both(s, rivals) else s
            for s in roomy
        ]
        return Plan(targets=tuple(rivals), stages=tuple(stages), control=tuple(roomy))


def _with_room(stage: Stage, schedule: Bucketed) -> Stage:
    """The stage, with more steps where to keep so many rivals apart would leave some of its samples out."""
    steps = len(
        packed([s.id for s in stage.samples], schedule.apart(), stage.per_step, random.Random(0))
    )
    if steps <= stage.steps_per_pass:
        return stage
    return stage.model_copy(
        update={"training": {**stage.training, "max_steps": math.ceil(stage.visits * steps)}}
    )


def _holds_both(stage: Stage, rivals: Mapping[str, Sequence[str]]) -> bool:
    """Whether any two rivals are in the stage: in different stages they are apart anyway."""
    ids = {row.id for row in stage.samples}
    return any(one in ids and not ids.isdisjoint(others) for one, others in rivals.items())
