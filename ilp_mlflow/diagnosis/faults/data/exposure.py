"""What the ledger says of a whole stage: rows it lost, steps that were thrown away."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

from ilp_mlflow.core.values import Exposure, Stage, Subject, to_rows
from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.diagnosis.faults.fault import Fault
from ilp_mlflow.training.accounts.ledger_note import LedgerNote

SELDOM = 0.5
"""A row that was seen less than this share 0..1 of the usual count was seldom seen, as in
`causes/not_trained.py`."""
SELDOM_STRENGTH = 0.7
"""How sure it is that to be seldom seen keeps a row from being learned, as there."""
SELDOM_ROWS = 5
"""Rows that are seldom seen from which it is the stage's doing."""


class Reason(NamedTuple):
    """Why rows were left out of batches."""

    words: str
    """What left them out, as the end of a sentence."""
    change: str
    """What mends it."""


def find_exposure_faults(facts: RunFacts) -> list[Fault]:
    """What the ledger says of a whole stage: rows it lost, steps that were thrown away.

    Rows of which no token would be in the loss are not the ledger's: a trainer leaves them out.
    """
    entries_by_stage: dict[str, list[Exposure]] = {}
    if facts.context.exposures is not None:
        for entry in to_rows(facts.context.exposures, Exposure):
            if entry.supervised_tokens > 0:
                entries_by_stage.setdefault(entry.stage, []).append(entry)
    faults = []
    for stage in facts.context.stages:
        note = facts.ledgers.get(stage.name)
        entries = entries_by_stage.get(stage.name, [])
        if note is not None and note.unread:
            faults.append(_no_ledger(note))
        elif note is not None and note.kept_step is not None and note.kept_step < note.steps:
            faults.append(_thrown_away(note, note.kept_step, entries, facts))
        else:
            faults += _never_seen(stage, entries, facts)
        faults += _seldom_seen(stage, entries, facts)
    return faults


def _no_ledger(note: LedgerNote) -> Fault:
    return Fault(
        kind="no_ledger",
        cause="not_trained",
        reason=f"which rows its {note.steps} steps trained is not known: {note.unread}",
        change="",
        subject=_subject(note.stage),
    )


def _thrown_away(
    note: LedgerNote, kept_step: int, entries: Sequence[Exposure], facts: RunFacts
) -> Fault:
    """Steps behind the one whose weights were kept."""
    lost = _unlearned_of(entries, facts, lambda entry: entry.exposures == 0)
    reason = (
        f"weights of step {kept_step} of {note.steps} were kept (load_best_model_at_end): what "
        "came later is not in the model"
    )
    own = (
        f"it was in no batch up to step {kept_step} of {note.steps}, whose weights were kept "
        "(load_best_model_at_end)"
    )
    change = ""
    if lost:
        change = "set load_best_model_at_end: false, or evaluate on rows like these"
    return Fault(
        kind="steps_thrown_away",
        cause="not_trained",
        reason=reason,
        change=change,
        subject=_subject(note.stage),
        samples=lost,
        reasons=dict.fromkeys(lost, own),
    )


def _never_seen(stage: Stage, entries: Sequence[Exposure], facts: RunFacts) -> list[Fault]:
    """Rows that were in no batch, for one reason."""
    unseen = [entry for entry in entries if entry.exposures == 0]
    lost = _unlearned_of(entries, facts, lambda entry: entry.exposures == 0)
    # where none was seen at all, something else is wrong
    if not lost or len(unseen) == len(entries):
        return []
    reason = _why_left_out(stage, entries, facts.ledgers.get(stage.name))
    return [
        Fault(
            kind="rows_in_no_batch",
            cause="not_trained",
            reason=f"{len(unseen)} of {len(entries)} rows were in no batch: {reason.words}",
            change=reason.change,
            subject=_subject(stage.name),
            samples=lost,
            reasons=dict.fromkeys(lost, f"it was in no batch: {reason.words}"),
        )
    ]


def _seldom_seen(stage: Stage, entries: Sequence[Exposure], facts: RunFacts) -> list[Fault]:
    """Rows that were seen much less often than others, for one reason."""
    counts = [entry.exposures for entry in entries if entry.exposures]
    usual = median(counts) if counts else 0

    def is_seldom(entry: Exposure) -> bool:
        return 0 < entry.exposures < SELDOM * usual

    seldom = [entry for entry in entries if is_seldom(entry)]
    lost = _unlearned_of(entries, facts, is_seldom)
    if not lost or len(seldom) < SELDOM_ROWS:
        return []
    reason = _why_left_out(stage, entries, facts.ledgers.get(stage.name))
    most = max(entry.exposures for entry in seldom)
    what = f"seen {most} times or less, others {usual:g} times"
    return [
        Fault(
            kind="rows_seldom_seen",
            cause="not_trained",
            reason=f"{len(seldom)} of {len(entries)} rows were {what}: {reason.words}",
            change=reason.change,
            strength=SELDOM_STRENGTH,
            subject=_subject(stage.name),
            samples=lost,
            reasons=dict.fromkeys(lost, f"it was {what}: {reason.words}"),
        )
    ]


def _why_left_out(stage: Stage, entries: Sequence[Exposure], note: LedgerNote | None) -> Reason:
    """What of the stage's options leaves rows out of batches; where none does, an order."""
    options = stage.training
    seen = sum(entry.exposures for entry in entries)
    first_pass_ended = seen >= len(entries)
    if not first_pass_ended:
        return _why_ended(stage, len(entries), seen, note)
    if options.get("dataloader_drop_last"):
        return Reason(
            "dataloader_drop_last leaves out the last rows of each pass",
            "set dataloader_drop_last: false",
        )
    if isinstance(stage.schedule, str):
        what = "the order in which the trainer draws rows leaves them out"
        return Reason(what, "look at the trainer's sampler: it should draw every row as often")
    return Reason("the schedule leaves them out", "look at the stage's schedule")


def _why_ended(stage: Stage, rows: int, seen: int, note: LedgerNote | None) -> Reason:
    """Why a training ended before its first pass over the rows did."""
    options = stage.training
    needed = math.ceil(rows / stage.per_step)
    max_steps = int(options.get("max_steps", -1))
    stopped = note is not None and 0 < note.steps < stage.steps
    if note is not None and stopped:
        return Reason(
            f"the training was stopped at step {note.steps}, before its first pass over the rows "
            "ended",
            f"let it go on for {needed} steps at least",
        )
    if max_steps > 0:
        return Reason(
            f"max_steps {max_steps} ends the training after {seen} of {rows} rows",
            f"raise max_steps to {needed} or more, or set num_train_epochs in its place",
        )
    if float(options.get("num_train_epochs", 3)) < 1:
        return Reason(
            f"num_train_epochs {options['num_train_epochs']:g} ends the training after {seen} of "
            f"{rows} rows",
            "set num_train_epochs to 1 or more",
        )
    if options.get("dataloader_drop_last"):
        return Reason(
            "dataloader_drop_last leaves out the last rows of each pass",
            "set dataloader_drop_last: false",
        )
    return Reason(
        "the order in which the trainer draws rows leaves them out",
        "look at the trainer's sampler or schedule: it should draw every row as often",
    )


def _unlearned_of(
    entries: Sequence[Exposure], facts: RunFacts, is_meant: Callable[[Exposure], bool]
) -> tuple[str, ...]:
    """Ids of the unlearned samples among the entries that are meant."""
    unlearned = set(facts.unlearned)
    return tuple(e.sample_id for e in entries if e.sample_id in unlearned and is_meant(e))


def _subject(stage: str) -> Subject:
    return Subject(kind="stage", name=stage)
