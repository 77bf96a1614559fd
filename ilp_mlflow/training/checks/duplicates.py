"""Rows that are there twice, and prompts that have several answers."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ilp_mlflow.core.texts import Text, asks_nothing, last_turn
from ilp_mlflow.training.checks.finding import CheckedRow, CheckFinding, excerpt, row_finding


def check_duplicates(rows: Sequence[CheckedRow]) -> list[CheckFinding]:
    """Exact copies of earlier rows, and rows whose prompt has another answer elsewhere."""
    first_by_text: dict[str, CheckedRow] = {}
    rows_by_prompt: dict[str, list[CheckedRow]] = {}
    copies = []
    for row in rows:
        prompt = _key(row.sample.prompt)
        text = f"{prompt}\n{_key(row.sample.completion)}"
        if text in first_by_text:
            copies.append((row, first_by_text[text]))
        else:
            first_by_text[text] = row
            if not asks_nothing(row.sample.prompt):
                rows_by_prompt.setdefault(prompt, []).append(row)
    contradicting = [group for group in rows_by_prompt.values() if len(group) > 1]
    return [*_copies(copies, len(rows)), *_several_answers(contradicting, len(rows))]


def _copies(copies: Sequence[tuple[CheckedRow, CheckedRow]], total: int) -> list[CheckFinding]:
    """Rows with the earlier row that they copy."""
    original = copies[0][1].place if copies else ""
    return row_finding(
        "duplicates",
        "warning",
        [copy for copy, _ in copies],
        total,
        "exact copies of an earlier row",
        f"as {original}",
        "remove the copies, unless they are to weigh more",
    )


def _several_answers(groups: Sequence[Sequence[CheckedRow]], total: int) -> list[CheckFinding]:
    """Rows that are asked exactly as another one with another answer, by prompt."""
    answers = ""
    if groups:
        one, other = groups[0][:2]
        answers = (
            f"{excerpt(last_turn(one.sample.completion), 40)}, but "
            f"{excerpt(last_turn(other.sample.completion), 40)} in {other.place}"
        )
    return row_finding(
        "several_answers",
        "warning",
        [row for group in groups for row in group],
        total,
        f"asked exactly as another one that is answered otherwise ({len(groups)} prompts)",
        answers,
        "keep one answer to each prompt, or ask for what differs",
    )


def _key(text: Text) -> str:
    """A prompt or an answer as one text, equal for equal ones."""
    if isinstance(text, str):
        return text
    return json.dumps(text.model_dump(mode="json", exclude_unset=True), sort_keys=True)
