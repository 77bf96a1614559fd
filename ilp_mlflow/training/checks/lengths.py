"""How long rows are, what a cut-off takes from them, and which are longer than the model reads."""

from __future__ import annotations

from collections.abc import Sequence

from ilp_mlflow.data.training_configs.setup import TrainingSetup
from ilp_mlflow.scoring.encoding import Tokenization
from ilp_mlflow.training.checks.finding import CheckedRow, CheckFinding, counted, row_finding

CUT_OFF_NAMES = {"LLaMA-Factory": "cutoff_len", "axolotl": "sequence_len"}
"""What a trainer calls its cut-off; TRL's is max_length."""


def row_tokens(row: CheckedRow) -> int:
    """Tokens of the whole row, before it is cut."""
    return row.account.prompt_tokens + row.account.answer_tokens


def check_lengths(
    rows: Sequence[CheckedRow], setup: TrainingSetup, tokenization: Tokenization
) -> list[CheckFinding]:
    """Rows that are cut or left out, and rows for which the model has no positions."""
    return [
        *_too_long(rows, setup),
        *_split_by_packing(rows, setup),
        *_beyond_positions(rows, setup, tokenization),
    ]


def _too_long(rows: Sequence[CheckedRow], setup: TrainingSetup) -> list[CheckFinding]:
    limit = setup.max_length
    if limit is None:
        return []
    name = CUT_OFF_NAMES.get(setup.trainer, "max_length")
    longest = max(row_tokens(row) for row in rows)
    change = f"raise {name} to {longest}, or shorten these rows"
    if setup.too_long == "drop":
        return row_finding(
            "left_out",
            "warning",
            [row for row in rows if row_tokens(row) > limit],
            len(rows),
            f"longer than {name} {limit}: axolotl leaves such rows out of training",
            lambda row: f"{row_tokens(row)} tokens",
            change,
        )
    if setup.too_long == "share":
        return _cut_by_share(rows, limit, name, change)
    # what a template puts behind the end of an answer may be cut, too, and is no loss
    cut = [row for row in rows if row.account.cut_tokens and row_tokens(row) > limit]
    without_answer = [row for row in cut if not row.account.supervised_answer_tokens]
    without_end = [row for row in cut if row.account.supervised_answer_tokens and not _has_end(row)]
    return row_finding(
        "cut",
        "warning",
        cut,
        len(rows),
        f"longer than {name} {limit} and cut: {len(without_answer)} lose the whole "
        f"answer, {len(without_end)} its end",
        lambda row: f"{row.account.cut_tokens} of {row_tokens(row)} tokens are cut",
        change,
    )


def _split_by_packing(rows: Sequence[CheckedRow], setup: TrainingSetup) -> list[CheckFinding]:
    """Rows of which an answer, or a part of it, is trained without the prompt before it."""
    limit = setup.splits_at
    if limit is None:
        return []
    change = "set packing_strategy: bfd, and max_length to the longest row"
    if setup.splits_any_row:
        # each border between two sequences falls into a row, but for the rare one between rows
        borders = min(len(rows), sum(row_tokens(row) for row in rows) // limit)
        if not borders:
            return []
        return [
            CheckFinding(
                kind="split_by_packing",
                severity="warning",
                sentence=f"packing_strategy wrapped cuts about {counted(borders, len(rows))} at "
                f"the border of a sequence of {limit} tokens: what stands behind it is trained "
                "without the prompt before it",
                rows=borders,
                share=borders / len(rows),
                change=change,
            )
        ]
    return row_finding(
        "split_by_packing",
        "warning",
        [row for row in rows if row_tokens(row) > limit],
        len(rows),
        f"longer than a sequence of {limit} tokens: packing_strategy bfd_split trains the rest of "
        "them without the prompt before it",
        lambda row: f"{row_tokens(row)} tokens",
        change,
    )


def _has_end(row: CheckedRow) -> bool:
    return row.account.end_supervised


def _cut_by_share(
    rows: Sequence[CheckedRow], limit: int, name: str, change: str
) -> list[CheckFinding]:
    """Rows that LLaMA-Factory cuts, the prompt and the answer each."""
    cut = [row for row in rows if row_tokens(row) > limit]
    without_end = [row for row in cut if _kept_of_answer(row, limit) < row.account.answer_tokens]
    return row_finding(
        "cut",
        "warning",
        cut,
        len(rows),
        f"longer than {name} {limit} and cut: {len(without_end)} lose the end of the "
        f"answer, {len(cut) - len(without_end)} the end of the prompt alone",
        lambda row: (
            f"{row.account.prompt_tokens} tokens of prompt and {row.account.answer_tokens} of "
            "answer"
        ),
        change,
    )


def _kept_of_answer(row: CheckedRow, limit: int) -> int:
    """Tokens of the answer that LLaMA-Factory keeps of a row that is too long.

    An answer shorter than half the cut-off is kept and the prompt cut; beside a prompt shorter than
    half of it the answer is cut; else both are, in proportion.
    """
    prompt, answer = row.account.prompt_tokens, row.account.answer_tokens
    if answer * 2 < limit:
        room = limit
    elif prompt * 2 < limit:
        room = limit - prompt
    else:
        room = int(limit * answer / (prompt + answer))
    return min(room, answer)


def _beyond_positions(
    rows: Sequence[CheckedRow], setup: TrainingSetup, tokenization: Tokenization
) -> list[CheckFinding]:
    positions = tokenization.max_length
    if positions is None or (setup.max_length is not None and setup.max_length <= positions):
        return []
    return row_finding(
        "beyond_positions",
        "warning",
        [row for row in rows if row_tokens(row) > positions],
        len(rows),
        f"longer than the {positions} positions that the model has",
        lambda row: f"{row_tokens(row)} tokens",
        f"set the cut-off to {positions} or less, and shorten these rows",
    )
