"""Whole stages whose answers, or their ends, were in no loss: from accounts, and from tiny models trained elsewhere."""

import pytest

from ilp_mlflow.core.values import Exposure, Score
from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.diagnosis.faults.loss.loss_mask import find_mask_faults
from ilp_mlflow.training.accounts.row_account import RowAccount
from tests.contexts import context, sample
from tests.diagnosis.faults.runs import IGNORED, facts_of, pairs, train
from tests.training.checks.accounts import FINE

IDS = [f"s{number}" for number in range(10)]


def followed(accounts, stops=False, accuracy=0.75):
    """Facts of a followed training of ten rows with these changes of their accounts."""
    samples = [sample(id_) for id_ in IDS]
    scores = [
        Score(sample_id=id_, checkpoint="second", tokens=4, token_accuracy=accuracy, stops=stops)
        for id_ in IDS
    ]
    ledger = [
        Exposure(sample_id=i, stage="first", exposures=1, supervised_tokens=3, truncated_tokens=0)
        for i in IDS
    ]
    known = context(samples, scores=scores, exposures=ledger)
    changed = {
        id_: RowAccount(**{**FINE, "sample_id": id_, **changes})
        for id_, changes in zip(IDS, accounts, strict=True)
    }
    return RunFacts(known, changed, followed=True)


NO_END = {"supervised_answer_tokens": 3, "end_supervised": False}


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        (NO_END, "end_not_in_the_loss"),
        ({"supervised_answer_tokens": 0, "end_supervised": False}, "no_token_in_the_loss"),
        ({"supervised_answer_tokens": 2}, "answer_not_in_the_loss"),
        ({"supervised_answer_tokens": 0, "weight_zero": True}, "weight_0"),
        ({"supervised_answer_tokens": 1, "cut_tokens": 3}, "cut"),
    ],
)
def test_what_nearly_all_rows_lack_is_said_once_and_stops(changes, kind):
    (fault,) = find_mask_faults(followed([{}] + [changes] * 9))
    assert (fault.kind, fault.cause, fault.stops) == (kind, "not_trained", True)
    assert fault.samples == tuple(IDS[1:])
    assert "9 of 10 rows" in fault.reason
    assert fault.change
    assert set(fault.reasons) == set(IDS[1:])


def test_what_some_rows_lack_is_their_own():
    assert find_mask_faults(followed([{}] * 2 + [NO_END] * 8)) == []


def test_rows_that_are_wrong_elsewhere_are_not_explained_by_their_end():
    (fault,) = find_mask_faults(followed([NO_END] * 10, accuracy=0.5))
    assert fault.samples == ()
    (fault,) = find_mask_faults(followed([NO_END] * 10, stops=True))
    assert fault.samples == ()


def without_end(ids, start):
    return [*ids[start:-1], IGNORED]


def without_beginning(ids, start):
    half = (len(ids) - start) // 2
    return [IGNORED] * half + ids[start + half :]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mask", "kinds"),
    [
        (without_end, ["end_not_in_the_loss"]),
        (without_beginning, ["answer_not_in_the_loss"]),
        (lambda ids, start: ids[start:], []),
    ],
)
def test_models_trained_elsewhere_show_what_was_masked(tiny_model, tmp_path, mask, kinds):
    samples = pairs()
    facts = facts_of(samples, tiny_model, train(tiny_model, tmp_path / "m", samples, mask))
    faults = find_mask_faults(facts)
    assert [fault.kind for fault in faults] == kinds
    for fault in faults:
        assert len(fault.samples) == 8
        assert fault.stops
    if kinds == ["end_not_in_the_loss"]:
        # of the tiny model the padding token is the end token
        assert "the padding token is <|end|>, too" in faults[0].reason


@pytest.mark.long
@pytest.mark.parametrize("options", [{"steps": 6}, {"lr": 1e-5}, {"lr": 0.3}])
def test_a_training_that_failed_is_no_mask(tiny_model, tmp_path, options):
    samples = pairs()
    folder = train(tiny_model, tmp_path / "m", samples, **options)
    assert find_mask_faults(facts_of(samples, tiny_model, folder)) == []


def test_ends_of_answers_that_were_cut_are_not_said_to_be_masked():
    """Half of the answers are learned with their end; the others go wrong before theirs."""
    scores = []
    for number, id_ in enumerate(IDS):
        is_short = number < 5
        text = {"sample_id": id_, "tokens": 5}
        scores.append(Score(checkpoint="base", logprob=-30, end_logprob=-5, stops=False, **text))
        end = -0.01 if is_short else -7.0
        after = {"logprob": end - 1, "end_logprob": end, "token_accuracy": 1 if is_short else 0.6}
        scores.append(Score(checkpoint="first", greedy=is_short, stops=is_short, **after, **text))
    learned = dict.fromkeys(IDS[:5], ("unlearned", "learned"))
    samples = [sample(id_) for id_ in IDS]
    known = context(samples, learned, scores, checkpoints=("base", "first"))
    assert find_mask_faults(RunFacts(known)) == []
    masked = [s.model_copy(update={"end_logprob": -7.0, "stops": False}) for s in scores]
    known = context(samples, None, masked, checkpoints=("base", "first"))
    assert [fault.kind for fault in find_mask_faults(RunFacts(known))] == ["end_not_in_the_loss"]
