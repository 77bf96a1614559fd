"""Batches whose form was wrong: labels shifted twice, padding that was read as text."""

from __future__ import annotations

from ilp_mlflow.core.interfaces import MIN_TAUGHT_SHARE
from ilp_mlflow.core.values import Subject
from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.diagnosis.faults.fault import Fault
from ilp_mlflow.training.accounts.ledger_note import LABELS_IN_PLACE, MASK_PADDING, LedgerNote


def find_batch_faults(facts: RunFacts) -> list[Fault]:
    """Stages whose batches came in a wrong form, as the ledger saw them.

    Labels that a trainer shifts for a loss of its own are right: then most rows are learned.
    """
    faults = []
    taught = facts.context.taught
    for note in facts.ledgers.values():
        if note.label_offset and taught.get(note.stage, 0.0) < MIN_TAUGHT_SHARE:
            faults.append(_shifted_labels(note, facts))
        if note.attended_padding:
            faults.append(_attended_padding(note))
    return faults


def _shifted_labels(note: LedgerNote, facts: RunFacts) -> Fault:
    """Labels that were shifted before the model did so: no row was trained as it stands."""
    samples = facts.context.samples
    return Fault(
        kind="labels_shifted",
        cause="not_trained",
        reason=note.label_sentence,
        change=LABELS_IN_PLACE,
        subject=Subject(kind="stage", name=note.stage),
        samples=tuple(id_ for id_ in facts.unlearned if samples[id_].stage == note.stage),
        stops=True,
    )


def _attended_padding(note: LedgerNote) -> Fault:
    """Padding that was read as text; to be known, since rows may be learned all the same."""
    return Fault(
        kind="attended_padding",
        cause="not_trained",
        reason=note.padding_sentence,
        change=MASK_PADDING,
        subject=Subject(kind="stage", name=note.stage),
    )
