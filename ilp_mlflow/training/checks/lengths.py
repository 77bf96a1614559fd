"""How long rows are, what a cut-off takes from them, and which are longer than the model reads."""

from __future__ import annotations

from collections.abc import Sequence

from ilp_mlflow.core.texts import Conversation
from ilp_mlflow.data.training_configs.setup import TrainingSetup
from ilp_mlflow.scoring.tokens.encoding import Tokenization, encode
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
        *_too_long(rows, setup, tokenization),
        *_split_by_packing(rows, setup),
        *_beyond_positions(rows, setup, tokenization),
    ]


def _too_long(
    rows: Sequence[CheckedRow], setup: TrainingSetup, tokenization: Tokenization
) -> list[CheckFinding]:
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
        return _cut_by_share(rows, setup, limit, tokenization)
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
    rows: Sequence[CheckedRow], setup: TrainingSetup, limit: int, tokenization: Tokenization
) -> list[CheckFinding]:
    """Rows that LLaMA-Factory cuts, each question and each answer."""
    cut = [row for row in rows if row_tokens(row) > limit]
    # under mask_history, the last turn comes first
    last_first = not setup.history_in_loss
    kept = [_kept_of_answer(_turn_lengths(row, tokenization), limit, last_first) for row in cut]
    pairs = list(zip(cut, kept, strict=True))
    lost = sum(tokens == 0 for tokens in kept)
    shortened = sum(0 < tokens < row.account.answer_tokens for row, tokens in pairs)
    longest = max((row_tokens(row) for row in cut), default=0)
    return row_finding(
        "cut",
        "warning",
        cut,
        len(rows),
        f"longer than cutoff_len {limit} and cut: {lost} lose the whole last answer, {shortened} "
        f"its end, {len(cut) - lost - shortened} what stands before it",
        lambda row: (
            f"{row.account.prompt_tokens} tokens of prompt and {row.account.answer_tokens} of "
            "answer"
        ),
        f"raise cutoff_len to {longest}, or shorten these rows",
    )


def _turn_lengths(row: CheckedRow, tokenization: Tokenization) -> list[tuple[int, int]]:
    """Tokens of every question and its answer, in order."""
    prompt, account = row.sample.prompt, row.account
    lengths = []
    before = 0
    turns = () if isinstance(prompt, str) else prompt.turns
    for place, turn in enumerate(turns):
        if turn.role == "assistant" and not isinstance(prompt, str) and place > 0:
            asked = prompt.with_turns(turns[:place])
            said = Conversation(turns=(turn,))
            encoded = encode(tokenization.tokenizer, asked, said, tokenization.end_token_ids)
            lengths.append((encoded.start - before, len(encoded.ids) - encoded.start))
            before = len(encoded.ids)
    return [*lengths, (account.prompt_tokens - before, account.answer_tokens)]


def _kept_of_answer(turns: Sequence[tuple[int, int]], limit: int, last_first: bool = False) -> int:
    """Tokens of the last answer that LLaMA-Factory keeps of a row that is too long.

    `turns` are tokens of questions and answers. They share the room turn by turn: an answer shorter
    than half of what is left is kept and its question cut; beside a question shorter than half of
    it the answer is cut; else both are, in proportion.
    """
    room = limit
    for number, (question, answer) in enumerate(reversed(turns) if last_first else turns):
        if answer * 2 < room:
            kept = answer
        elif question * 2 < room:
            kept = min(room - question, answer)
        else:
            kept = min(int(room * answer / (question + answer)), answer)
        if last_first or number == len(turns) - 1:
            return kept
        room -= kept + min(question, room - kept)
        if room <= 0:
            break
    return 0


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
