"""Models whose loss on the rows is not the one that their training logged."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ilp_mlflow.core.training_log import TrainingLog
from ilp_mlflow.core.values import Sample, Signal, Subject, to_rows
from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.diagnosis.faults.fault import Fault
from ilp_mlflow.diagnosis.faults.stage_scores import RowLoss, row_losses
from ilp_mlflow.diagnosis.loss_course import last_pass
from ilp_mlflow.training.accounts.row_account import RowAccount

LOSS_GAP = "scored_is_not_trained"
"""The kind of what is found here."""
BAND = 0.5
"""Nats per token that the scored loss may lie above TIMES the logged one. Of healthy runs, what is
scored lay above what was logged by a few hundredths at most (`experiments/training_logs.py`): the
final model has seen the rows once more, and without dropout."""
TIMES = 1.5
"""See BAND."""
LATE = 0.75
"""Rows last trained behind this share 0..1 of the steps count: others may be forgotten again."""
ALIKE = 0.95
"""Share 0..1 of rows that must be in the loss with their answer, whole, and nothing else."""

MARKS = 2
"""Tokens that a template may put behind the end token of an answer, and that are in the loss with
it: ChatML has a new line there. Nobody scores them, and they cost nothing once they are learned."""


class LossGap(NamedTuple):
    """The loss of the rows of a stage in two ways, nats per token."""

    scored: float
    """Under its own checkpoint, as scored here."""
    logged: float
    """At the end of its training, as noted there."""
    bound: float
    """What the logged loss may stand for at most, if all of it were that of the answers."""
    rows: int
    """Rows that were compared."""

    @property
    def is_wide(self) -> bool:
        """Whether no healthy run shows such a gap."""
        return self.scored > TIMES * self.bound + BAND


def find_loss_gaps(facts: RunFacts) -> list[Fault]:
    """Stages whose checkpoint does worse on their rows than their training did at its end.

    A model that does better is none: logs average over steps, with dropout and smoothed labels.
    """
    faults = []
    for stage in facts.context.taught:
        gap = measure_gap(facts, stage)
        if gap is None or not gap.is_wide:
            continue
        reason = (
            f"what is scored is not what was trained: {gap.scored:.2f} against {gap.logged:.2f} "
            f"nats per token at the end of its training ({gap.rows} rows)"
        )
        change = (
            "see that these are the weights, the base, the rows and the chat template of that "
            "training, and that a loss of its own shifts labels by one token, once"
        )
        if stage in facts.weights.named_bases:
            named = facts.weights.named_bases[stage]
            reason += (
                f"; its adapter names '{named}' as its base, and is put on the one that was given"
            )
            change = f"see first that its base is '{named}', then {change.removeprefix('see ')}"
        faults.append(
            Fault(
                kind=LOSS_GAP,
                cause="faulty_checkpoint",
                reason=reason,
                change=change,
                subject=Subject(kind="checkpoint", name=stage),
            )
        )
    return faults


def measure_gap(facts: RunFacts, stage: str) -> LossGap | None:
    """The loss of a stage's rows as scored and as trained; None where they cannot be compared.

    Of a training that was followed, row by row, those trained last; else on the whole, against the
    last pass that its log has. So it is, too, where rows are as they were in their batches, and a
    trainer with a loss of its own trained something else.
    """
    context = facts.context
    if stage not in facts.logs:
        return None
    scored = row_losses(context, stage)
    samples = [s for s in context.samples.values() if s.stage == stage and s.id in scored]
    if not samples or not answers_alone(samples, facts.accounts, MARKS):
        return None
    log = facts.logs[stage]
    gap_to_log = _gap_to_log(log, samples, scored, facts.accounts)
    if not facts.followed or context.signals is None:
        return gap_to_log
    signals = list(to_rows(context.signals.sort_by("step"), Signal))
    gap = _gap_by_row(signals, log, samples, scored, facts.accounts)
    if gap is not None and not gap.is_wide and gap_to_log is not None and gap_to_log.is_wide:
        return gap_to_log
    return gap


def answers_alone(
    samples: Sequence[Sample], accounts: Mapping[str, RowAccount], marks: int = 0
) -> bool:
    """Whether the tokens in the loss are those that are scored, in nearly all rows.

    Up to `marks` tokens more may be in it.
    """
    alike = 0
    for sample in samples:
        account = accounts.get(sample.id)
        if account is not None:
            is_whole = account.supervised_answer_tokens == account.answer_tokens
            others = account.supervised_tokens - account.supervised_answer_tokens
            alike += is_whole and others <= marks
    return alike >= ALIKE * len(samples)


def _gap_by_row(
    signals: Sequence[Signal],
    log: TrainingLog,
    samples: Sequence[Sample],
    scored: Mapping[str, RowLoss],
    accounts: Mapping[str, RowAccount],
) -> LossGap | None:
    """The losses of the rows trained last, in their last batch and as scored.

    `signals` are in the order of steps. All of the loss of a row may be that of its answer.
    """
    ids = {sample.id for sample in samples}
    last_step = log.steps if log.kept_step is None else log.kept_step
    trained: dict[str, float] = {}
    for signal in signals:
        is_late = LATE * last_step < signal.step <= last_step
        if signal.stage == log.stage and signal.sample_id in ids and is_late:
            trained[signal.sample_id] = signal.loss
    if not trained:
        return None
    logged = statistics.fmean(trained.values())
    of_scored = statistics.fmean(scored[id_].mean for id_ in trained)
    known = [accounts[id_] for id_ in trained if id_ in accounts]
    in_loss = sum(account.supervised_tokens for account in known)
    bound = logged * in_loss / max(1, sum(account.answer_tokens for account in known))
    return LossGap(scored=of_scored, logged=logged, bound=bound, rows=len(trained))


def _gap_to_log(
    log: TrainingLog,
    samples: Sequence[Sample],
    scored: Mapping[str, RowLoss],
    accounts: Mapping[str, RowAccount],
) -> LossGap | None:
    """The mean loss of the rows, against the mean of the last pass in the log.

    What was in the loss there is not known: it may have been the whole row.
    """
    losses = last_pass(log)
    if not losses:
        return None
    rows = [scored[sample.id] for sample in samples]
    logged = statistics.fmean(losses)
    return LossGap(
        scored=mean_loss(rows),
        logged=logged,
        bound=of_answers_at_most(logged, samples, scored, accounts),
        rows=len(rows),
    )


def mean_loss(rows: Sequence[RowLoss]) -> float:
    """The mean over tokens or over rows, the lesser one, nats per token: a log may be of either."""
    over_tokens = sum(row.nats for row in rows) / sum(row.tokens for row in rows)
    return min(over_tokens, statistics.fmean(row.mean for row in rows))


def of_answers_at_most(
    logged: float,
    samples: Sequence[Sample],
    scored: Mapping[str, RowLoss],
    accounts: Mapping[str, RowAccount],
) -> float:
    """What a logged loss of whole rows comes to if it is all that of their answers, nats per token.

    The prompt may have been in the loss, at none of it.
    """
    answer_tokens = sum(scored[sample.id].tokens for sample in samples)
    prompt_tokens = sum(accounts[s.id].prompt_tokens for s in samples if s.id in accounts)
    return logged * (prompt_tokens + answer_tokens) / answer_tokens
