"""What mitigations do to a recipe: which samples they are for, rows dropped from stages or added to them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from ilp_mlflow.plugin import Context, Diagnosis, Plan, Sample, Stage

LEARNING_RATE = 2e-5
"""Of a stage that sets none: that of `trl.SFTConfig`."""
PREPARING = {
    "max_length": None,
    "truncation_mode": "keep_start",
    "assistant_only_loss": False,
    "completion_only_loss": True,
    "dataloader_drop_last": False,
}
"""Options that decide what of a row is trained, and the value that counts as if it were left out."""


def targets(diagnoses: Sequence[Diagnosis], cause: str) -> tuple[str, ...]:
    """Ids of the samples that are not learned for this cause."""
    return tuple(d.verdict.sample_id for d in diagnoses if d.cause == cause)


def copies(samples: Iterable[Sample], n: int) -> list[Sample]:
    """Every sample `n` times more, under ids of their own."""
    return [s.model_copy(update={"id": f"{s.id}~{k}"}) for s in samples for k in range(1, n + 1)]


def drawn(
    stage: Stage, n: int, fits: Callable[[Sample], bool], barred: Collection[str] = ()
) -> list[Sample]:
    """`n` samples of a stage that fit and are not `barred` (ids), each as often as another or once more; the same each time."""
    free = [s for s in stage.samples if s.id not in barred]
    found = sampled(free, n, f"drawn {stage.training.get('seed')}", fits)
    return (
        [
            found[k % len(found)].model_copy(update={"id": f"{found[k % len(found)].id}+{k}"})
            for k in range(n)
        ]
        if found
        else []
    )


def added(stages: Sequence[Stage], more: Mapping[str, Sequence[Sample]]) -> tuple[Stage, ...]:
    """The stages with more samples in front; whole steps of them where a last batch is dropped, so that it is the same.

    The samples must fit into the stage: of rows that a trainer cuts to nothing there are no steps.
    """
    return tuple(
        s.model_copy(update={"samples": (*_whole(more.get(s.name, ()), s), *s.samples)})
        for s in stages
    )


def _whole(samples: Sequence[Sample], stage: Stage) -> Sequence[Sample]:
    over = len(samples) % stage.per_step if stage.training.get("dataloader_drop_last") else 0
    return samples[: len(samples) - over]


def dropped(stages: Sequence[Stage], ids: Collection[str]) -> tuple[Stage, ...]:
    """The stages without some samples; one that has no other is left out."""
    kept = [(s, tuple(x for x in s.samples if x.id not in ids)) for s in stages]
    return tuple(
        s if len(left) == len(s.samples) else s.model_copy(update={"samples": left})
        for s, left in kept
        if left
    )


def sampled(
    samples: Sequence[Sample], n: int, seed: str, wanted: Callable[[Sample], bool] | None = None
) -> list[Sample]:
    """At most `n` of the samples that are `wanted`, in the order of a draw; the same for the same seed."""
    return list(
        itertools.islice(filter(wanted, random.Random(seed).sample(samples, len(samples))), n)
    )


def busiest(stages: Sequence[Stage]) -> Stage:
    """The stage that sees the most rows: as it trains, a mix of them is trained."""
    return max(stages, key=lambda s: len(s.samples) * s.visits)


def mixed(
    targets: tuple[str, ...],
    context: Context,
    mix: Callable[[Sequence[Stage], Mapping[str, Any]], Stage],
) -> Plan | None:
    """A plan in which each run of stages that prepare rows alike becomes the one that `mix` makes of them and of the options of
    training.

    It trains like the busiest of them, in as many optimizer steps as all. A stage that prepares rows in another way keeps its
    place: what of them is trained would change. So does one without any row of the experiment, which another mitigation has put in
    front; its rows are in the first mix once more, so that they are not overwritten, and in the control. None where nothing can be
    mixed.
    """

    def kind(stage: Stage) -> tuple[Any, ...]:
        return (
            any(row.id in context.samples for row in stage.samples),
            *(stage.training.get(o, usual) for o, usual in PREPARING.items()),
        )

    runs = [list(run) for _, run in itertools.groupby(context.stages, kind)]
    if not targets or len(runs) == len(context.stages):
        return None
    read = [s for s in context.stages if not kind(s)[0]]
    stages, control = list[Stage](), list[Stage]()
    for run in runs:
        if len(run) > 1:
            like, read, again = busiest(run), [], [_once_more(s, busiest(run)) for s in read]
            training = {**like.training, "max_steps": sum(s.steps for s in (*again, *run))}
            stages.append(mix([*again, *run], training).model_copy(update={"name": like.name}))
            control += [*again, *run]
        else:
            stages += run
            control += run
    return Plan(targets=targets, stages=tuple(stages), control=tuple(control))


def _once_more(stage: Stage, like: Stage) -> Stage:
    """The rows of a stage in one pass, trained as those of another."""
    samples = tuple(row.model_copy(update={"id": f"{row.id}@{like.name}"}) for row in stage.samples)
    training = {name: value for name, value in like.training.items() if name != "max_steps"} | {
        "num_train_epochs": 1
    }
    return like.model_copy(
        update={"name": f"{stage.name}-again", "samples": samples, "training": training}
    )
