"""Plain texts for language modelling: every token of `text` is trained."""

from __future__ import annotations

from typing import Any

from ilp_mlflow.data.formats.names import Names
from ilp_mlflow.data.formats.parts import take_text

OTHER_FORMS = ("messages", "prompt", "completion")
"""Fields that would be read before a text."""


def convert(fields: dict[str, Any], where: str, names: Names) -> dict[str, Any]:
    """A row with its `text`. Raises DatasetError when it is none."""
    row = {name: value for name, value in fields.items() if name not in OTHER_FORMS}
    row["text"] = take_text(row, "text", where, names)
    return row
