"""The tokens of one answer: what the model gives them, and what it would have said instead."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ilp_mlflow.core.terminal.text import printable, wrap
from ilp_mlflow.core.value import Value
from ilp_mlflow.tracking import runs

MISSED_COLOUR = "red"
"""Colour of a token that is not the model's first choice."""
MISSED_MARKS = ("<<", ">>")
"""What stands around it where there are no colours."""
MAX_MISSES = 12
"""Misses that are listed, at most."""


class TokenView(Value):
    """One token of an answer."""

    text: str
    """What it says."""
    p: float
    """Probability 0..1 that the last checkpoint gives it."""
    p_base: float
    """Probability 0..1 that the base gives it."""
    first_choice: str | None = None
    """What the last checkpoint would say in its place; None where that is the token itself."""
    p_first_choice: float | None = None
    """Probability 0..1 of that."""


def read_tokens(run_id: str, sample_ids: Sequence[str]) -> dict[str, tuple[TokenView, ...]]:
    """The tokens of samples' answers under the base and the last checkpoint of a run, by id.

    Left out are those that are not scored under both.
    """
    wanted = pa.array(sample_ids, pa.string())
    names = [checkpoint.name for checkpoint in runs.read_checkpoints(run_id)]
    table = runs.read_table(run_id, "tokens.parquet")
    table = table.filter(pc.is_in(table["sample_id"], wanted))
    by_checkpoint: dict[str, dict[str, dict[str, list[Any]]]] = {}
    for name in (names[0], names[-1]):
        rows = table.filter(pc.equal(table["checkpoint"], name)).to_pylist()
        by_checkpoint[name] = {row["sample_id"]: row for row in rows}
    base, last = by_checkpoint[names[0]], by_checkpoint[names[-1]]
    choices = runs.read_table(run_id, "first_choices.parquet").to_pylist()
    text_by_id = {choice["id"]: choice["text"] for choice in choices}
    texts = runs.read_table(run_id, "answer_texts.parquet")
    tokens = {}
    for row in texts.filter(pc.is_in(texts["sample_id"], wanted)).to_pylist():
        id_ = row["sample_id"]
        if id_ in base and id_ in last:
            tokens[id_] = _tokens(row["texts"], base[id_], last[id_], text_by_id)
    return tokens


def _tokens(
    texts: Sequence[str],
    base: Mapping[str, list[Any]],
    last: Mapping[str, list[Any]],
    text_by_id: Mapping[int, str],
) -> tuple[TokenView, ...]:
    """The tokens of one answer, from its rows under the base and the last checkpoint."""
    tokens = []
    for place, text in enumerate(texts):
        logprob, best = last["logprobs"][place], last["best_logprobs"][place]
        missed = best > logprob
        tokens.append(
            TokenView(
                text=text,
                p=math.exp(logprob),
                p_base=math.exp(base["logprobs"][place]),
                first_choice=text_by_id[last["best_ids"][place]] if missed else None,
                p_first_choice=math.exp(best) if missed else None,
            )
        )
    return tuple(tokens)


def token_lines(
    tokens: Sequence[TokenView], paint: Callable[[str, str], str], coloured: bool
) -> list[str]:
    """The answer with its misses marked, and what the model would say in their place, as lines."""
    missed = [token for token in tokens if token.first_choice is not None]
    if not missed:
        return []
    marked = "".join(_marked(token, paint, coloured) for token in tokens)
    count = "1 token is" if len(missed) == 1 else f"{len(missed)} tokens are"
    lines = [f"{count} not the model's first choice:", "", *marked.split("\n"), ""]
    for token in missed[:MAX_MISSES]:
        lines += wrap(
            f"{printable(token.text)!r} ({token.p:.2f}, base {token.p_base:.2f}): the model says "
            f"{printable(token.first_choice or '')!r} ({token.p_first_choice:.2f})",
            2,
            2,
        )
    if len(missed) > MAX_MISSES:
        lines.append(f"  and {len(missed) - MAX_MISSES} more")
    return [*lines, ""]


def _marked(token: TokenView, paint: Callable[[str, str], str], coloured: bool) -> str:
    text = printable(token.text)
    if token.first_choice is None:
        return text
    if coloured:
        return paint(text, MISSED_COLOUR)
    opening, closing = MISSED_MARKS
    return f"{opening}{text}{closing}"
