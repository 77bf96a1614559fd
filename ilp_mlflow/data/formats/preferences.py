"""Rows that say which answers are wanted: SFT trains one answer, and must not train a bad one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ilp_mlflow.core.errors import DatasetError
from ilp_mlflow.data.formats.names import Names
from ilp_mlflow.data.records import Record

PAIRS = (
    ("chosen", "rejected"),
    ("chosen_messages", "rejected_messages"),
    ("preferred_output", "non_preferred_output"),
)
"""Columns of a better and a worse answer: TRL's (DPO), LLaMA-Factory's and OpenAI's."""
ANSWERS = ("messages", "completion", "output", "text")
"""Fields that hold what is trained."""
REASON = "SFT trains one answer to a prompt, and these rows rank two"


def refuse_pairs(columns: Collection[str], rows: Iterable[Record], name: str, names: Names) -> None:
    """Raise DatasetError for rows with a better and a worse answer, unless one of them is named.

    `columns` are those of the rows as they are written.
    """
    for better, worse in PAIRS:
        is_named = any(names.columns.get(field) for field in ANSWERS)
        if better in columns and worse in columns and not is_named:
            hint = _hint(better, [record.fields.get(better) for record in rows], columns)
            raise DatasetError(f"{name}: preference rows ({better}, {worse}); {REASON}; {hint}")


def _hint(better: str, answers: Iterable[Any], columns: Collection[str]) -> str:
    if "messages" in columns:
        return "if messages are what was trained, say so: --fields messages=messages"
    if "prompt" in columns:
        return f"give the chosen ones as completion: --fields completion={better}"
    if better.startswith("chosen") and all(isinstance(answer, list) for answer in answers):
        return f"give the chosen ones as messages: --fields messages={better}"
    return "write the chosen ones as completion"


def is_unwanted(row: Mapping[str, Any]) -> bool:
    """Whether a row, under our names, is one of KTO whose answer is not wanted."""
    return any(_is_false(row.get(name)) for name in ("label", "kto_tag"))


def _is_false(label: Any) -> bool:
    # in CSV everything is text
    return label is False or (isinstance(label, str) and label.lower() == "false")


def refuse_unwanted(where: str, n_unwanted: int, names: Names) -> None:
    """Raise DatasetError for rows whose answer is not wanted, the first of them at `where`."""
    label = names.called("label")
    rows = "1 row" if n_unwanted == 1 else f"{n_unwanted} rows"
    raise DatasetError(
        f"{where}: {label} is false (in {rows}), which marks an answer that is not wanted (KTO), "
        f"and SFT would train it; remove it, or keep the others with where: {{{label}: true}} in "
        "an experiment; rename the column if it means something else"
    )
