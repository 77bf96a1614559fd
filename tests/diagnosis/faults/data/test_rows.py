"""Rows that crowd others out, and rows that are held out and trained."""

from ilp_mlflow import Exposure
from ilp_mlflow.data.held_out import HeldOutRows
from ilp_mlflow.diagnosis.faults.data.rows import find_row_faults
from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.training.accounts.ledger_note import LedgerNote
from tests.contexts import context, sample

LEARNED = ("unlearned", "learned", "learned")


def crowded(copies=60, others=10, lost=8, lost_copies=0, times=None):
    """`copies` rows with one text and `others` with texts of their own, `lost` of them unlearned."""
    samples = [sample(f"copy{n}", "Who are you?", " a model") for n in range(copies)]
    samples += [sample(f"other{n}", f"What is {n}?", f" it is {n}") for n in range(others)]
    unlearned = {f"other{n}" for n in range(lost)} | {f"copy{n}" for n in range(lost_copies)}
    histories = {s.id: LEARNED for s in samples if s.id not in unlearned}
    exposures = None
    if times is not None:
        exposures = [
            Exposure(
                sample_id=s.id,
                stage="first",
                exposures=times,
                supervised_tokens=2,
                truncated_tokens=0,
            )
            for s in samples
        ]
    return RunFacts(context(samples, histories, exposures=exposures))


def test_rows_beside_many_copies_are_crowded_out():
    for known in (crowded(), crowded(times=2)):
        (fault,) = find_row_faults(known)
        assert fault.kind == "crowded_out"
        assert set(fault.samples) == {f"other{n}" for n in range(8)}
        assert "60 of 70 rows are copies of one text, and 8 of the 10 other rows" in fault.reason
        assert "remove the copies" in fault.change
        assert "one of 10 rows beside 60 copies" in fault.reasons["other0"]


def test_copies_that_others_are_learned_beside_or_that_are_no_majority_crowd_nobody_out():
    assert find_row_faults(crowded(lost=4)) == []
    assert find_row_faults(crowded(others=40, lost=40)) == []
    assert find_row_faults(crowded(lost_copies=60)) == []  # nothing was taught
    assert find_row_faults(crowded(times=20)) == []  # each row was seen often enough
    assert find_row_faults(crowded(copies=9, others=10, lost=10)) == []
    assert find_row_faults(crowded(others=0, lost=0)) == []


def test_held_out_rows_that_are_trained_are_a_finding_of_the_run():
    rows = HeldOutRows(rows=20, trained=7, example="sample 'a' is sample 'b'")
    (fault,) = find_row_faults(RunFacts(context([sample("x")]), held_out=rows))
    assert (fault.kind, fault.subject.kind, fault.samples) == ("held_out_trained", "run", ())
    assert fault.reason.startswith("7 of 20 held-out rows are also trained: what is lost on them")
    none = HeldOutRows(rows=20, trained=0)
    assert find_row_faults(RunFacts(context([sample("x")]), held_out=none)) == []


def test_rows_that_are_evaluated_and_trained_are_a_finding_of_the_stage():
    note = LedgerNote(stage="first", steps=3, evaluated=8, evaluated_trained=2)
    (fault,) = find_row_faults(RunFacts(context([sample("x")]), ledgers={"first": note}))
    assert fault.reason.startswith("2 of the 8 rows that it evaluates on are also trained")
