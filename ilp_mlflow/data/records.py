"""One row of a data set, as it was read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple


class Record(NamedTuple):
    """One row of a data set."""

    where: str
    """Its place, as messages name it: `facts.jsonl line 3`."""
    number: int
    """Its number in the data set, counted from 1."""
    fields: dict[str, Any]


def number_rows(rows: Iterable[Any], name: str) -> Iterator[Record]:
    """Rows as records that are called `name row N`."""
    for number, fields in enumerate(rows, 1):
        yield Record(f"{name} row {number}", number, dict(fields))
