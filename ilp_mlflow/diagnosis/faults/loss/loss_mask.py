"""Answers, or their end, that were not in the loss."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ilp_mlflow.core.values import Stage, Subject
from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.diagnosis.faults.fault import Fault
from ilp_mlflow.diagnosis.faults.loss.answers_never_raised import find_answers_never_raised
from ilp_mlflow.diagnosis.faults.loss.ends_never_raised import (
    find_ends_never_raised,
    is_only_end_wrong,
)
from ilp_mlflow.training.accounts.row_account import RowAccount

STAGE_WIDE = 0.9
"""Share 0..1 of a stage's rows from which a fault is the stage's rather than single rows'."""
CHANGES = {
    "weight_0": "leave the weight out where the answer is to be learned",
    "no_token_in_the_loss": "label the answers: leave assistant_only_loss out, or take a chat "
    "template whose {% generation %} block holds what the assistant says",
    "answer_not_in_the_loss": "label the whole answer: take a chat template whose "
    "{% generation %} block holds all of it",
    "end_not_in_the_loss": "label the end token: take a chat template that has it inside its "
    "{% generation %} block",
}
"""What mends each kind; of rows that are cut, see `_raise_max_length`."""
REASONS = {
    "weight_0": "weight 0 keeps the answers of {} out of the loss",
    "cut": "max_length cuts the answers of {} off, in part or whole",
    "no_token_in_the_loss": "no token of the answers of {} was in the loss",
    "answer_not_in_the_loss": "only a part of the answers of {} was in the loss",
    "end_not_in_the_loss": "the end token of {} was in no loss, so the model does not learn to "
    "stop",
}


def find_mask_faults(facts: RunFacts) -> list[Fault]:
    """Answers, or their end, that were not in the loss of a whole stage.

    Of single rows the diagnostic `not_trained` speaks. Where the training was not followed, it is
    what the scores show.
    """
    faults: list[Fault] = []
    for stage in facts.context.stages:
        if facts.followed:
            faults += _seen_in_accounts(facts, stage)
        else:
            # rows whose answers were not in the loss end as they like
            faults += find_answers_never_raised(facts, stage) or find_ends_never_raised(
                facts, stage
            )
    return faults


def _seen_in_accounts(facts: RunFacts, stage: Stage) -> list[Fault]:
    """The fault that nearly all rows of a stage have in common, by what was trained of them."""
    accounts = [facts.accounts[s.id] for s in stage.samples if s.id in facts.accounts]
    kinds = {account.sample_id: _kind(account) for account in accounts}
    counts = Counter(kind for kind in kinds.values() if kind)
    if not counts:
        return []
    (kind, rows) = counts.most_common(1)[0]
    if rows < STAGE_WIDE * len(accounts):
        return []
    of_kind = [account for account in accounts if kinds[account.sample_id] == kind]
    unlearned = set(facts.unlearned) & {account.sample_id for account in of_kind}
    if kind == "end_not_in_the_loss":
        unlearned = _missing_their_end(facts, unlearned)
    return [
        Fault(
            kind=kind,
            cause="not_trained",
            reason=f"{REASONS[kind].format(f'{rows} of {len(accounts)} rows')}"
            f" (of '{of_kind[0].sample_id}' {_figures(of_kind[0])})",
            change=CHANGES.get(kind) or _raise_max_length(of_kind),
            subject=Subject(kind="stage", name=stage.name),
            samples=tuple(id_ for id_ in facts.unlearned if id_ in unlearned),
            reasons={
                account.sample_id: _row_reason(kind, account)
                for account in of_kind
                if account.sample_id in unlearned
            },
            stops=True,
        )
    ]


def _kind(account: RowAccount) -> str | None:
    """What of a row's answer was not in the loss; None where all of it was."""
    missing = account.answer_tokens - account.supervised_answer_tokens
    if account.weight_zero:
        return "weight_0"
    if missing <= 0:
        return None
    if account.cut_tokens:
        return "cut"
    if account.supervised_answer_tokens == 0:
        return "no_token_in_the_loss"
    if missing == 1 and account.end_token and not account.end_supervised:
        return "end_not_in_the_loss"
    return "answer_not_in_the_loss"


def _figures(account: RowAccount) -> str:
    return f"{account.supervised_answer_tokens} of {account.answer_tokens} tokens were"


def _row_reason(kind: str, account: RowAccount) -> str:
    if kind == "end_not_in_the_loss":
        return f"the answer is there, its end token is not: {account.end_token} was not in the loss"
    if kind == "weight_0":
        return "its last turn has weight 0, which keeps it out of the loss"
    reason = (
        f"only {account.supervised_answer_tokens} of the {account.answer_tokens} tokens of its "
        "answer, end included, were in the loss"
    )
    return f"{reason}; max_length cut {account.cut_tokens} off" if account.cut_tokens else reason


def _raise_max_length(accounts: Sequence[RowAccount]) -> str:
    longest = max(account.prompt_tokens + account.answer_tokens for account in accounts)
    return f"raise max_length to {longest}, or shorten these rows"


def _missing_their_end(facts: RunFacts, ids: set[str]) -> set[str]:
    """Those of some rows of which the end alone is wrong: the others have a cause of their own."""
    scores = facts.context.last_scores([facts.context.samples[id_] for id_ in ids])
    return {id_ for id_, score in scores.items() if is_only_end_wrong(score)}
