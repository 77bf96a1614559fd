import pytest

from ilp_mlflow.diagnosis.faults.data.batches import find_batch_faults
from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.training.accounts.ledger_note import LedgerNote
from tests.contexts import context, sample


def facts(learned=0, **note):
    samples = [sample(str(n)) for n in range(4)]
    histories = {str(n): ("unlearned", "learned", "learned") for n in range(learned)}
    ledgers = {"first": LedgerNote(stage="first", steps=9, rows=40, **note)}
    return RunFacts(context(samples, histories), ledgers=ledgers, followed=True)


@pytest.mark.parametrize(
    ("offset", "learned", "words"), [(1, 0, "the one after the next"), (-1, 1, "has just read")]
)
def test_labels_that_are_shifted_twice_explain_what_is_unlearned(offset, learned, words):
    (fault,) = find_batch_faults(facts(learned, label_offset=offset))
    assert (fault.kind, fault.cause, fault.stops) == ("labels_shifted", "not_trained", True)
    assert len(fault.samples) == 4 - learned
    assert words in fault.reason


def test_a_loss_of_its_own_may_want_shifted_labels():
    assert find_batch_faults(facts(learned=3, label_offset=1)) == []


def test_padding_that_is_read_is_to_be_known_and_explains_no_row():
    (fault,) = find_batch_faults(facts(attended_padding=12))
    assert (fault.kind, fault.samples, fault.stops) == ("attended_padding", (), False)
    assert "12 of 40 rows" in fault.reason


def test_batches_as_they_should_be_are_none():
    assert find_batch_faults(facts()) == []
