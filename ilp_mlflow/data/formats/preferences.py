"""Rows that say which answers are wanted: SFT trains one answer, and must not train a bad one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
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
            hint = _hint(better, [record.fields for record in rows], columns)
            raise DatasetError(f"{name}: preference rows ({better}, {worse}); {REASON}; {hint}")


def _hint(better: str, rows: Sequence[Mapping[str, Any]], columns: Collection[str]) -> str:
    """How to train the better answers, which depends on what the rows hold beside them."""
    if "messages" in columns:
        return "if messages are what was trained, say so: --fields messages=messages"
    answers = [row.get(better) for row in rows if row.get(better) is not None]
    if all(_is_whole_conversation(answer) for answer in answers):
        return f"give the chosen ones as messages: --fields messages={better}"
    if "instruction" in columns:
        return f"give the chosen ones as output: --fields output={better}"
    if "prompt" in columns:
        return f"give the chosen ones as completion: --fields completion={better}"
    if all(isinstance(answer, str) for answer in answers):
        return f"give the chosen ones as text, of which all is trained: --fields text={better}"
    return "write the chosen ones as completion"


def _is_whole_conversation(answer: Any) -> bool:
    """Whether an answer begins with what it answers."""
    if not isinstance(answer, list) or len(answer) < 2 or not isinstance(answer[0], dict):
        return False
    return answer[0].get("role", answer[0].get("from")) not in ("assistant", "gpt")


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
