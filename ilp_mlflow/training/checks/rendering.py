"""What the chat template leaves out of rows, and what it puts in."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ilp_mlflow.training.checks.finding import CheckedRow, CheckFinding, excerpt, row_finding

INDEX = re.compile(r"\[\d+\]")
"""The number of a turn or call inside the name of a field."""
MAX_SHOWN = 5
"""Fields or texts of which each gets a finding of its own."""


def check_rendering(rows: Sequence[CheckedRow]) -> list[CheckFinding]:
    """What of the rows is nowhere in what the model sees, and what is there beyond them."""
    return [*_dropped(rows), *_added(rows)]


def _dropped(rows: Sequence[CheckedRow]) -> list[CheckFinding]:
    """One finding for every field that is left out."""
    rows_by_field: dict[str, list[CheckedRow]] = {}
    for row in rows:
        # a field that is left out of several turns of a row counts once
        for field in dict.fromkeys(_field(said) for said in row.account.dropped):
            rows_by_field.setdefault(field, []).append(row)
    findings = []
    for field, faulty in list(rows_by_field.items())[:MAX_SHOWN]:
        said = next(said for said in faulty[0].account.dropped if _field(said) == field)
        findings += row_finding(
            "template_drops",
            "warning",
            faulty,
            len(rows),
            f"{field} is nowhere in what the model sees",
            said,
            "take a chat template that renders it (--chat-template), or move it into the content",
        )
    return findings


def _field(said: str) -> str:
    """The field that an entry of `dropped` is about, without the numbers of turns."""
    return INDEX.sub("", said.partition(": ")[0])


def _added(rows: Sequence[CheckedRow]) -> list[CheckFinding]:
    """One finding for every text that is put in."""
    rows_by_text: dict[str, list[CheckedRow]] = {}
    for row in rows:
        for text in dict.fromkeys(row.account.added):
            rows_by_text.setdefault(text, []).append(row)
    findings = []
    for text, faulty in list(rows_by_text.items())[:MAX_SHOWN]:
        findings += row_finding(
            "template_adds",
            "note",
            faulty,
            len(rows),
            f"the template puts in {excerpt(text)}, which is not in the row",
            change="where that is not meant, give the rows a system turn, or take another template",
        )
    return findings
