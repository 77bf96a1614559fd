"""What mitigations do to a recipe: which samples they are for, rows dropped from stages or added to them."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from ilp_mlflow import Diagnosis, Plan, Sample, Stage


def targets(diagnoses: Sequence[Diagnosis], cause: str) -> tuple[str, ...]:
    """Ids of the samples that are not learned for this cause."""
    return tuple(d.verdict.sample_id for d in diagnoses if d.cause == cause)


def copies(samples: Iterable[Sample], n: int) -> list[Sample]:
    """Every sample `n` times more, under ids of their own."""
    return [s.model_copy(update={"id": f"{s.id}~{k}"}) for s in samples for k in range(1, n + 1)]


def drawn(stage: Stage, n: int, barred: Collection[str]) -> list[Sample]:
    """`n` samples of a stage that are not `barred` (ids), each as often as another or once more; the same for the same seed."""
    free = [s for s in stage.samples if s.id not in barred]
    random.Random(f"drawn {stage.training.get('seed')}").shuffle(free)
    return [free[k % len(free)].model_copy(update={"id": f"{free[k % len(free)].id}+{k}"}) for k in range(n)] if free else []


def added(stages: Sequence[Stage], more: Mapping[str, Sequence[Sample]]) -> tuple[Stage, ...]:
    """The stages with more samples, by stage."""
    return tuple(s.model_copy(update={"samples": (*s.samples, *more[s.name])}) if more.get(s.name) else s for s in stages)


def dropped(stages: Sequence[Stage], ids: Collection[str]) -> tuple[Stage, ...]:
    """The stages without some samples."""
    return tuple(
        s.model_copy(update={"samples": tuple(x for x in s.samples if x.id not in ids)})
        if any(x.id in ids for x in s.samples)
        else s
        for s in stages
    )


def form(stage: Stage) -> type:
    """Whether its prompts are text or messages: one training set holds one of them only."""
    return type(stage.samples[0].prompt)


def sampled(samples: Sequence[Sample], n: int, seed: str) -> list[Sample]:
    """At most `n` of the samples, in the order of a draw; the same for the same seed."""
    return random.Random(seed).sample(samples, min(n, len(samples)))


def epochs(stage: Stage) -> int:
    """How often the stage sees each of its rows, as whole passes."""
    return max(1, round(float(stage.training.get("num_train_epochs", 3))))


def steps(stage: Stage, rows: float) -> int:
    """Optimizer steps in which the stage sees so many rows."""
    size = stage.training.get("per_device_train_batch_size", 8) * stage.training.get("gradient_accumulation_steps", 1)
    return max(1, math.ceil(rows / float(size)))


def busiest(stages: Sequence[Stage]) -> Stage:
    """The stage that sees the most rows: as it trains, a mix of them is trained."""
    return max(stages, key=lambda s: len(s.samples) * epochs(s))


def mixed(targets: tuple[str, ...], stages: Sequence[Stage], mix: Callable[[Sequence[Stage]], Stage]) -> Plan | None:
    """A plan in which each run of stages of one form becomes the one that `mix` makes of it; None where nothing can be mixed."""
    runs = [list(run) for _, run in itertools.groupby(stages, form)]
    if not targets or len(runs) == len(stages):
        return None
    return Plan(targets=targets, stages=tuple(run[0] if len(run) == 1 else mix(run) for run in runs))
