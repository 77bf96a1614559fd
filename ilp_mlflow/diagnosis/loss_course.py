"""How the loss of a stage went, and whether it was still falling when the training ended."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import pyarrow as pa

from ilp_mlflow.core.training_log import LogEntry, LossCourse, TrainingLog

FALLING = 0.1
"""A loss still falls when it is below the one before by this share 0..1 of itself, or by this share
of all that it fell since the beginning; of a stage that has settled, passes differ by less."""
STANDARD_ERRORS = 2.0
"""How far two means of a log must lie apart to differ beyond chance, in standard errors."""
DECAYED = 0.5
"""The rate has decayed when it ended below this share 0..1 of its peak."""
MIN_ENTRIES = 3
"""A log needs so many entries with a loss: one for each third."""


def read_course(
    stage: str,
    unlearned: frozenset[str],
    log: TrainingLog | None,
    signals: pa.Table | None,
) -> LossCourse | None:
    """How the loss of a stage went: of its `unlearned` rows where theirs still fell, else of all.

    None where too little is known of either.
    """
    of_rows = None
    if signals is not None:
        of_rows = course_from_signals(signals, stage, unlearned)
    of_log = course_from_log(log) if log is not None else None
    if of_rows is not None and (of_rows.falls or of_log is None):
        return of_rows
    return of_log


def course_from_signals(
    signals: pa.Table, stage: str, sample_ids: frozenset[str]
) -> LossCourse | None:
    """How the losses of these samples of a stage went, from batch to batch of each.

    None where none of them was in two batches.
    """
    losses: dict[str, list[float]] = {}
    steps = 0
    columns = signals.sort_by("step").select(["sample_id", "stage", "loss", "step"]).to_pydict()
    for id_, of_stage, loss, step in zip(*columns.values(), strict=True):
        if of_stage == stage:
            steps = step
        if of_stage == stage and id_ in sample_ids:
            losses.setdefault(id_, []).append(loss)
    courses = [course for course in losses.values() if len(course) > 1]
    if not courses:
        return None
    first, before, last = (statistics.fmean(c[place] for c in courses) for place in (0, -2, -1))
    course = LossCourse(
        source="signals", first=first, before=before, last=last, falls=False, steps=steps
    )
    return course.model_copy(update={"falls": course.fell >= FALLING})


def course_from_log(log: TrainingLog) -> LossCourse | None:
    """How a logged loss went; None where too little of it was logged.

    It still falls where the mean of the last pass is below that of the one before by a share of
    FALLING, and by STANDARD_ERRORS. In place of passes, thirds are compared where there were less
    than two passes, and where the learning rate decayed: at a rate near 0 no loss falls.
    """
    entries = finite_entries(log)
    if len(entries) < MIN_ENTRIES:
        return None
    before, last = _last_windows(entries)
    losses = [loss_of(entry) for entry in entries]
    first = statistics.fmean(losses[: max(1, len(losses) // 10)])
    course = LossCourse(
        source="log",
        first=first,
        before=statistics.fmean(before),
        last=statistics.fmean(last),
        falls=False,
        steps=log.steps,
        from_start=entries[0].step == 1,
    )
    return course.model_copy(update={"falls": _falls(course, before, last)})


def _falls(course: LossCourse, before: Sequence[float], last: Sequence[float]) -> bool | None:
    """Whether a loss was still falling at the end; None where too little was logged to tell."""
    drop = course.before - course.last
    if min(len(before), len(last)) < MIN_ENTRIES:
        return True if course.fell >= FALLING else None
    variances = [statistics.variance(part) / len(part) for part in (before, last)]
    is_chance = drop <= STANDARD_ERRORS * math.sqrt(sum(variances))
    of_all = drop / (course.first - course.last) if course.first > course.last else 0.0
    return not is_chance and (course.fell >= FALLING or of_all >= FALLING)


def finite_entries(log: TrainingLog) -> list[LogEntry]:
    """The entries of a log that have a loss, up to the weights that were kept."""
    return [entry for entry in log.kept if _has_loss(entry)]


def _has_loss(entry: LogEntry) -> bool:
    """Whether the loss of an entry is a number; trainers log 0.0 for those that were none."""
    if entry.loss is None or not math.isfinite(entry.loss):
        return False
    norm = entry.grad_norm
    return entry.loss != 0 or norm is None or (math.isfinite(norm) and norm > 0)


def loss_of(entry: LogEntry) -> float:
    """The loss of an entry that has one, nats per token."""
    assert entry.loss is not None
    return entry.loss


def last_pass(log: TrainingLog) -> list[float]:
    """The logged losses of the last pass over the data; of less than one, of all of it."""
    entries = finite_entries(log)
    if not entries:
        return []
    end = entries[-1].epoch
    if end is None:
        return list(map(loss_of, entries[-max(1, len(entries) // 10) :]))
    return [loss_of(e) for e in entries if e.epoch is not None and e.epoch > end - 1]


def _last_windows(entries: Sequence[LogEntry]) -> tuple[list[float], list[float]]:
    """The losses of the last two passes, or thirds: see `course_from_log`."""
    end = entries[-1].epoch
    if end is not None and end >= 2 and not _rate_decayed(entries):
        before, last = [], []
        for entry in entries:
            passed = entry.epoch
            if passed is not None and passed > end - 1:
                last.append(loss_of(entry))
            elif passed is not None and passed > end - 2:
                before.append(loss_of(entry))
        # entries that span more than a pass leave none for one of the two
        if before and last:
            return before, last
    third = len(entries) // 3
    losses = list(map(loss_of, entries))
    return losses[-2 * third : -third], losses[-third:]


def _rate_decayed(entries: Sequence[LogEntry]) -> bool:
    """Whether the learning rate ended below half of its peak; not where it was not logged."""
    rates = [entry.learning_rate for entry in entries if entry.learning_rate is not None]
    return bool(rates) and rates[-1] < DECAYED * max(rates)
