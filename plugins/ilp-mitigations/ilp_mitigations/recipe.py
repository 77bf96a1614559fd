"""Steps that mitigations share: find targets, add rows to stages or drop them, mix stages."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from ilp_mlflow.plugin import Context, Diagnosis, Plan, Sample, Stage

DEFAULT_LEARNING_RATE = 2e-5
"""Learning rate of a stage that sets none: the default of `trl.SFTConfig`."""
ROW_OPTIONS = {
    "max_length": None,
    "truncation_mode": "keep_start",
    "assistant_only_loss": False,
    "completion_only_loss": True,
    "dataloader_drop_last": False,
}
"""Training options that decide what of a row is trained, and what a stage without them has."""


def find_targets(diagnoses: Sequence[Diagnosis], cause: str) -> tuple[str, ...]:
    """Ids of the unlearned samples whose diagnosed cause is `cause`."""
    return tuple(d.verdict.sample_id for d in diagnoses if d.cause == cause)


def unlearned_ids(diagnoses: Sequence[Diagnosis]) -> set[str]:
    """Ids of all unlearned samples, whatever their cause."""
    return {d.verdict.sample_id for d in diagnoses}


def with_id(sample: Sample, new_id: str) -> Sample:
    """A copy of a sample under another id: ids are unique within a plan."""
    return sample.model_copy(update={"id": new_id})


def repeat_rows(samples: Iterable[Sample], times: int) -> list[Sample]:
    """Copies of every sample, `times` of each."""
    copies = []
    for sample in samples:
        for k in range(1, times + 1):
            copies.append(with_id(sample, f"{sample.id}~{k}"))
    return copies


def sample_rows(
    samples: Sequence[Sample],
    n: int,
    seed: str,
    fits: Callable[[Sample], bool] = lambda sample: True,
) -> list[Sample]:
    """At most `n` distinct samples that fit, in random order; the same for the same seed."""
    shuffled = random.Random(seed).sample(samples, len(samples))
    # lazily: whether a row fits is read off its tokens, which takes time
    fitting = filter(fits, shuffled)
    return list(itertools.islice(fitting, n))


def draw_rows(
    stage: Stage, n: int, fits: Callable[[Sample], bool], barred: Collection[str] = ()
) -> list[Sample]:
    """`n` copies of rows of a stage, for a control that sees as many rows as its mitigation.

    Drawn from the rows that fit and are not `barred` (ids), each as often as another or once more,
    and the same each time. Empty where no row is left to draw from.
    """
    free = [row for row in stage.samples if row.id not in barred]
    distinct = sample_rows(free, n, f"drawn {stage.training.get('seed')}", fits)
    if not distinct:
        return []
    copies = []
    for k in range(n):
        # all of them in turn, so that none is copied twice before another is copied once
        row = distinct[k % len(distinct)]
        copies.append(with_id(row, f"{row.id}+{k}"))
    return copies


def add_rows(stages: Sequence[Stage], more: Mapping[str, Sequence[Sample]]) -> tuple[Stage, ...]:
    """The stages with more rows (by stage name) in front of their own.

    The rows must fit into the stage: a trainer makes no steps of rows that it cuts to nothing.
    """
    longer = []
    for stage in stages:
        extra = _whole_steps(more.get(stage.name, ()), stage)
        longer.append(stage.model_copy(update={"samples": (*extra, *stage.samples)}))
    return tuple(longer)


def _whole_steps(samples: Sequence[Sample], stage: Stage) -> Sequence[Sample]:
    """As many of the samples as keep the stage's last batch the same where it is dropped."""
    if not stage.training.get("dataloader_drop_last"):
        return samples
    # half a step more in front would push other rows into the batch that is dropped
    whole = len(samples) - len(samples) % stage.per_step
    return samples[:whole]


def drop_rows(stages: Sequence[Stage], ids: Collection[str]) -> tuple[Stage, ...]:
    """The stages without some rows; a stage that would be empty is left out."""
    shorter = []
    for stage in stages:
        rows = tuple(row for row in stage.samples if row.id not in ids)
        if len(rows) == len(stage.samples):
            shorter.append(stage)
        elif rows:
            shorter.append(stage.model_copy(update={"samples": rows}))
    return tuple(shorter)


def busiest_stage(stages: Sequence[Stage]) -> Stage:
    """The stage that sees the most rows, passes counted: a mix of the stages is trained like it."""
    return max(stages, key=lambda s: len(s.samples) * s.visits)


def plan_mixed_stages(
    targets: tuple[str, ...],
    context: Context,
    mix: Callable[[Sequence[Stage], Mapping[str, Any]], Stage],
) -> Plan | None:
    """A plan that trains neighbouring stages as one; its control trains them in their order.

    `mix` makes one stage of several and of the training options for it: those of the busiest, and
    as many optimizer steps as all of them have. A stage that prepares its rows in another way than
    its neighbours keeps its place, since mixed, other tokens of its rows would be trained. Texts
    that another mitigation has put in front keep theirs, and are part of the first mix as well, so
    that they are not overwritten. None where there are no targets, or nothing can be mixed.
    """
    groups = _group_alike(context)
    if not targets or len(groups) == len(context.stages):
        return None
    texts = [stage for stage in context.stages if not has_own_rows(stage, context)]
    stages: list[Stage] = []
    control: list[Stage] = []
    for group in groups:
        if len(group) == 1:
            stages += group
            control += group
            continue
        busiest = busiest_stage(group)
        again = [_once_more(stage, busiest) for stage in texts]
        # only the first mix repeats the texts
        texts = []
        in_order = [*again, *group]
        training = {**busiest.training, "max_steps": sum(s.steps for s in in_order)}
        mixed = mix(in_order, training)
        stages.append(mixed.model_copy(update={"name": busiest.name}))
        control += in_order
    return Plan(targets=targets, stages=tuple(stages), control=tuple(control))


def _group_alike(context: Context) -> list[list[Stage]]:
    """The stages in order, neighbours together that train the same of a row."""

    def preparation(stage: Stage) -> dict[str, Any]:
        # what is equal to a default is the same as left out
        options = {name: stage.training.get(name, unset) for name, unset in ROW_OPTIONS.items()}
        return {"own rows": has_own_rows(stage, context), **options}

    # neighbours only: what another stage in between trains must not change its place
    return [list(group) for _, group in itertools.groupby(context.stages, preparation)]


def has_own_rows(stage: Stage, context: Context) -> bool:
    """Whether the stage trains rows of the experiment, and not only texts of a mitigation."""
    return any(row.id in context.samples for row in stage.samples)


def _once_more(texts: Stage, like: Stage) -> Stage:
    """The rows of a stage of texts in one pass, trained as those of another stage."""
    rows = []
    for row in texts.samples:
        rows.append(with_id(row, f"{row.id}@{like.name}"))
    training = {**like.training, "num_train_epochs": 1}
    # it would take precedence over the number of epochs
    training.pop("max_steps", None)
    changes = {"name": f"{texts.name}-again", "samples": tuple(rows), "training": training}
    return like.model_copy(update=changes)
