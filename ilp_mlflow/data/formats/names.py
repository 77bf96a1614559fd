"""Columns, fields of turns and roles that have names of their own, by a mapping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ilp_mlflow.core.config import TURN_FIELDS

TURNS = ("messages", "conversations")
READ_BEFORE = {
    "prompt": TURNS,
    "completion": TURNS,
    "instruction": (*TURNS, "prompt", "completion"),
    "output": (*TURNS, "prompt", "completion"),
    "text": (*TURNS, "prompt", "completion", "instruction", "output"),
}
"""By field, those that would be read in its place where a row has both."""


@dataclass(frozen=True)
class Names:
    """What the rows of one data set call things."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Columns by the field they are, see `DataConfig.fields`; "" for a field that is not read."""
    roles: Mapping[str, str] = field(default_factory=dict)
    """Roles by what the rows call them."""

    def called(self, name: str) -> str:
        """What the rows call a field."""
        return self.columns.get(name) or name

    def row(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """A row under our names, without what would be read before the fields that are named."""
        columns = self.of_rows()
        row = _renamed(fields, columns)
        for name, before in READ_BEFORE.items():
            if columns.get(name):
                for other in before:
                    if other not in columns:
                        row.pop(other, None)
        return row

    def turn(self, turn: Mapping[str, Any]) -> dict[str, Any]:
        """A turn of a conversation under our names."""
        return _renamed(turn, self.of_turns())

    def of_rows(self) -> dict[str, str]:
        """Columns by the field of a row they are."""
        return {name: value for name, value in self.columns.items() if name not in TURN_FIELDS}

    def of_turns(self) -> dict[str, str]:
        """What turns call their fields, by field."""
        return {name: value for name, value in self.columns.items() if name in TURN_FIELDS}

    def hidden(self, fields: Mapping[str, Any]) -> list[str]:
        """Columns of a row that have something in them, and that the mapping leaves out."""
        columns = self.of_rows()
        row = self.row(fields)
        hidden = []
        for name, value in fields.items():
            is_replaced = name in columns or name not in row
            if is_replaced and name not in columns.values() and not is_empty(value):
                hidden.append(name)
        return hidden


def is_empty(value: Any) -> bool:
    """Whether there is nothing in a field."""
    return value is None or value == "" or value == [] or value == {}


def _renamed(fields: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    # a column with the name of a field that another one is, or none, is not that field
    taken = {*columns, *columns.values()}
    renamed = {name: value for name, value in fields.items() if name not in taken}
    for name, column in columns.items():
        if column in fields:
            renamed[name] = fields[column]
    return renamed
