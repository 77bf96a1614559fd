"""Which tokens of the rows are in the loss: none, the wrong ones, or all but the end token."""

from __future__ import annotations

from collections.abc import Sequence

from ilp_mlflow.data.training_configs.setup import TrainingSetup
from ilp_mlflow.scoring.tokens.encoding import Tokenization
from ilp_mlflow.training.checks.finding import CheckedRow, CheckFinding, row_finding


def check_supervision(
    rows: Sequence[CheckedRow], setup: TrainingSetup, tokenization: Tokenization
) -> list[CheckFinding]:
    """Rows without a token in the loss, prompts in the loss, and what becomes of the end token."""
    return [
        *_unsupervised(rows),
        *_weight_zero(rows),
        *_prompts_in_the_loss(rows, setup),
        *_end_not_in_the_loss(rows, setup),
        *_end_does_not_stop(rows, tokenization),
        *_padding_is_the_end(rows, tokenization),
    ]


def _unsupervised(rows: Sequence[CheckedRow]) -> list[CheckFinding]:
    """Rows that teach nothing, unless they say so themselves."""
    faulty = [row for row in rows if not (row.account.supervised_tokens or row.account.weight_zero)]
    return row_finding(
        "no_token_in_the_loss",
        "error",
        faulty,
        len(rows),
        "no token is in the loss, so nothing is learned from them",
        _why_unsupervised,
        _supervise(faulty),
    )


def _supervise(faulty: Sequence[CheckedRow]) -> str:
    """What puts the answers of rows into the loss."""
    changes = []
    if any(row.account.cut_tokens for row in faulty):
        changes.append("raise the cut-off")
    if not all(row.account.cut_tokens for row in faulty):
        changes.append("take a chat template that renders the answer and marks it as said")
    return f"{', '.join(changes)}, or remove these rows"


def _why_unsupervised(row: CheckedRow) -> str:
    account = row.account
    if account.cut_tokens:
        return (
            f"its prompt has {account.prompt_tokens} tokens, and {account.cut_tokens} of the row "
            "are cut, the whole answer among them"
        )
    if not account.answer_tokens:
        return "its answer has no token: the chat template leaves it out"
    return f"none of the {account.answer_tokens} tokens of its answer is in the loss"


def _weight_zero(rows: Sequence[CheckedRow]) -> list[CheckFinding]:
    return row_finding(
        "weight_0",
        "note",
        [row for row in rows if row.account.weight_zero],
        len(rows),
        "weight 0 takes the answer out of the loss",
        change="leave the weight out where the answer is to be learned",
    )


def _prompts_in_the_loss(rows: Sequence[CheckedRow], setup: TrainingSetup) -> list[CheckFinding]:
    """Rows of which the questions are trained, too, where that was asked for by no option."""
    if setup.loss_on == "assistant turns":
        return []
    faulty = [row for row in rows if _supervised_prompt_tokens(row)]
    if setup.loss_on == "answer":
        # a line break behind the end token is in the loss, too, and no part of the answer
        return row_finding(
            "prompt_in_the_loss",
            "note",
            [row for row in faulty if row.sample.completion_turns > 1],
            len(rows),
            "the completion has several turns, and all of them are in the loss, the user's too",
            change="set assistant_only_loss: true to train the assistant's alone",
        )
    return row_finding(
        "prompt_in_the_loss",
        "note",
        faulty,
        len(rows),
        "the prompt is in the loss, too",
        lambda row: (
            f"{_supervised_prompt_tokens(row)} of the {row.account.supervised_tokens} tokens in "
            "the loss are the prompt's"
        ),
        _train_answers_alone(setup),
    )


def _supervised_prompt_tokens(row: CheckedRow) -> int:
    return row.account.supervised_tokens - row.account.supervised_answer_tokens


def _train_answers_alone(setup: TrainingSetup) -> str:
    """The option by which a trainer keeps prompts out of the loss."""
    return {
        "axolotl": "set train_on_inputs: false to train answers alone",
        "LLaMA-Factory": "set train_on_prompt: false to train answers alone",
    }.get(
        setup.trainer,
        "to train answers alone, set assistant_only_loss: true, or give rows as prompt and "
        "completion",
    )


def _end_not_in_the_loss(rows: Sequence[CheckedRow], setup: TrainingSetup) -> list[CheckFinding]:
    """Rows whose answer is trained, and not that it ends; those that are cut are said elsewhere."""
    faulty = []
    for row in rows:
        account = row.account
        is_trained = account.supervised_answer_tokens > 0 and not account.cut_tokens
        if is_trained and not (account.end_supervised and setup.end_in_loss):
            faulty.append(row)
    return row_finding(
        "end_not_in_the_loss",
        "warning",
        faulty,
        len(rows),
        "the answer is trained and its end token is not, so the model does not learn to stop",
        _end_of_row,
        _label_the_end(setup),
    )


def _end_of_row(row: CheckedRow) -> str:
    if row.account.end_token is None:
        return "no end token stands behind its answer"
    return f"its answer ends with {row.account.end_token}, which is in no loss"


def _label_the_end(setup: TrainingSetup) -> str:
    if not setup.end_in_loss:
        return "set train_on_eos: turn"
    return "take a chat template that ends the assistant's turns, end token inside the markers"


def _end_does_not_stop(
    rows: Sequence[CheckedRow], tokenization: Tokenization
) -> list[CheckFinding]:
    """Rows whose end token is trained and stops nothing."""
    faulty = [row for row in rows if row.account.end_token and not row.account.end_stops]
    end_tokens = tokenization.tokenizer.convert_ids_to_tokens(sorted(tokenization.end_token_ids))
    last = faulty[0].account.end_token if faulty else ""
    return row_finding(
        "end_does_not_stop",
        "warning",
        faulty,
        len(rows),
        f"the answer ends with {last}, at which the model does not stop: its end tokens are "
        f"{', '.join(end_tokens) or 'none'}",
        change=f"set eos_token to {last}, or add it to eos_token_id in generation_config.json",
    )


def _padding_is_the_end(
    rows: Sequence[CheckedRow], tokenization: Tokenization
) -> list[CheckFinding]:
    pad = tokenization.tokenizer.pad_token
    faulty = [row for row in rows if pad and row.account.end_token == pad]
    return row_finding(
        "padding_is_the_end",
        "note",
        faulty,
        len(rows),
        f"the answer ends with {pad}, which is also the padding token: a collator that takes "
        "padding out of the loss by its id takes the end out as well (transformers' "
        "DataCollatorForLanguageModeling; TRL, LLaMA-Factory and axolotl do not)",
        change="with such a collator, set a pad_token of its own",
    )
