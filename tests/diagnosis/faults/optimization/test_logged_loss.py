import pytest

from ilp_mlflow import Score, Signal
from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.diagnosis.faults.optimization.logged_loss import find_loss_gaps, measure_gap
from ilp_mlflow.training.accounts.row_account import RowAccount
from tests.contexts import context, sample
from tests.diagnosis.training_logs import log

LOW = log([3.0] * 10 + [0.1] * 10, per_epoch=10)


def account(id_, supervised=5, prompt=5):
    return RowAccount(
        sample_id=id_,
        segments=(),
        prompt_tokens=prompt,
        answer_tokens=5,
        supervised_tokens=supervised,
        supervised_answer_tokens=min(supervised, 5),
        cut_tokens=0,
    )


def facts(scored, logged=LOW, trained=None, **counts):
    """Rows whose loss is `scored` now, and was `trained` in their batches if they were followed."""
    rows = [sample(f"r{place}") for place in range(10)]
    scores, signals = [], None
    for row in rows:
        score = {"sample_id": row.id, "checkpoint": "first", "tokens": 5}
        scores.append(Score(**score, logprob=-5 * scored))
    if trained is not None:
        signals = []
        for row in rows:
            for step, loss in trained:
                signal = {"sample_id": row.id, "stage": "first", "step": step, "loss": loss}
                signals.append(Signal(**signal, token_accuracy=0.0))
    known = context(rows, None, scores, signals=signals, checkpoints=("base", "first"))
    accounts = {row.id: account(row.id, **counts) for row in rows}
    return RunFacts(known, accounts, {"first": logged}, followed=trained is not None)


def test_a_model_that_is_not_the_one_that_was_trained_is_told_of_its_checkpoint():
    (fault,) = find_loss_gaps(facts(3.0))
    assert (fault.kind, fault.cause) == ("scored_is_not_trained", "faulty_checkpoint")
    assert (fault.subject.kind, fault.subject.name) == ("checkpoint", "first")
    assert (
        "what is scored is not what was trained: 3.00 against 0.10 nats per token" in fault.reason
    )
    # a finding, and no diagnosis
    assert fault.samples == ()
    assert not fault.stops


@pytest.mark.parametrize("scored", [0.0, 0.1, 0.5])
def test_a_model_inside_the_band_of_healthy_runs_is_none(scored):
    assert find_loss_gaps(facts(scored)) == []


def test_a_prompt_in_the_loss_may_explain_a_low_logged_loss():
    assert find_loss_gaps(facts(1.0))
    assert not find_loss_gaps(facts(1.0, prompt=100))


def test_tokens_that_are_not_those_in_the_loss_are_not_compared():
    assert measure_gap(facts(3.0, supervised=3), "first") is None
    assert measure_gap(facts(3.0, supervised=9), "first") is None


def test_without_a_log_nothing_is_known():
    assert measure_gap(RunFacts(facts(3.0).context), "first") is None
    assert measure_gap(facts(3.0, log()), "first") is None


def test_of_a_training_that_was_followed_rows_are_compared_with_their_last_batch():
    gap = measure_gap(facts(3.0, trained=[(5, 3.0), (18, 0.2)]), "first")
    assert (gap.scored, gap.logged, gap.rows) == (pytest.approx(3.0), pytest.approx(0.2), 10)
    assert gap.is_wide
    # rows that were last trained long before the end may be forgotten again
    assert measure_gap(facts(3.0, trained=[(5, 0.2)]), "first") is None


def test_steps_behind_the_weights_that_were_kept_do_not_count():
    kept = LOW.model_copy(update={"kept_step": 10})
    assert not find_loss_gaps(facts(3.0, kept))
    assert not find_loss_gaps(facts(3.0, kept, trained=[(9, 3.0), (18, 0.2)]))


def test_a_loss_of_the_trainers_own_that_is_not_that_of_its_rows_is_told():
    # rows are as bad as they were in their batches, and the log has another loss
    (fault,) = find_loss_gaps(facts(3.0, trained=[(18, 3.0)]))
    assert "3.00 against 0.10 nats per token" in fault.reason
    assert "a loss of its own" in fault.change
    assert not find_loss_gaps(facts(3.0, log([3.0] * 20, per_epoch=10), trained=[(18, 3.0)]))


def test_marks_behind_the_end_of_an_answer_hide_no_gap():
    # the new line of ChatML is in the loss, and is not scored
    assert find_loss_gaps(facts(3.0, supervised=6))
    assert find_loss_gaps(facts(3.0, trained=[(18, 0.2)], supervised=6))
    assert not find_loss_gaps(facts(0.1, supervised=6))
    gap = measure_gap(facts(3.0, trained=[(18, 0.2)], supervised=6), "first")
    assert gap.bound == pytest.approx(0.2 * 6 / 5)
