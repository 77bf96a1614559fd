"""What a check found: one kind of fault, how many rows have it, and what to change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from ilp_mlflow.core.value import Value
from ilp_mlflow.core.values import Sample
from ilp_mlflow.training.accounts.row_account import RowAccount

Severity = Literal["error", "warning", "note"]
"""`error`: the training fails or cannot teach what the rows say; `warning`: it may well not;
`note`: to be known."""
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


class CheckFinding(Value):
    """One kind of fault."""

    kind: str
    """Short name, for programs."""
    severity: Severity
    """How bad it is."""
    sentence: str
    """What is so, with the number and share of rows."""
    rows: int = 0
    """Rows that have it; 0 for what is true of the model or the configuration."""
    share: float = 0.0
    """Share 0..1 of all rows that have it."""
    example: str = ""
    """The first such row and what is wrong with it; "" without one."""
    change: str = ""
    """What to change; "" where there is nothing to."""


class CheckedRow(NamedTuple):
    """A row with its account."""

    sample: Sample
    account: RowAccount

    @property
    def place(self) -> str:
        """Where it stands: `facts.jsonl line 3 (sample 'facts/3')`."""
        return self.sample.name


def row_finding(
    kind: str,
    severity: Severity,
    faulty: Sequence[CheckedRow],
    total: int,
    what: str,
    example: str | Callable[[CheckedRow], str] = "",
    change: str = "",
) -> list[CheckFinding]:
    """The finding that `faulty` rows of `total` have in common; [] where there are none.

    `what` is true of each of them; `example` says it of the first in particular.
    """
    if not faulty:
        return []
    detail = example if isinstance(example, str) else example(faulty[0])
    return [
        CheckFinding(
            kind=kind,
            severity=severity,
            sentence=f"{counted(len(faulty), total)}: {what}",
            rows=len(faulty),
            share=len(faulty) / total,
            example=f"{faulty[0].place}: {detail}" if detail else faulty[0].place,
            change=change,
        )
    ]


def counted(rows: int, total: int) -> str:
    """`3 of 12 rows (25 %)`; a share that rounds to nothing or all keeps a decimal."""
    share = 100 * rows / total
    exact = round(share) in (0, 100) and rows not in (0, total)
    digits = 1 if exact else 0
    return f"{rows} of {total} rows ({share:.{digits}f} %)"


def excerpt(text: str, length: int = 60) -> str:
    """The beginning of a text in quotes, on one line."""
    line = " ".join(text.split())
    return repr(line if len(line) <= length else f"{line[: length - 4]} ...")
