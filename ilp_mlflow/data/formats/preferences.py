"""Rows that say which answers are wanted: SFT trains one answer, and must not train a bad one."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from ilp_mlflow.core.errors import DatasetError
from ilp_mlflow.core.terminal.notes import say_once
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


def is_unwanted(row: Mapping[str, Any], names: Names, zero_is_false: bool) -> bool:
    """Whether a row, under our names, is one of KTO whose answer is not wanted.

    A `label` of false says so, and so does a `kto_tag` or a named label of 0. Under another column
    that happens to be called `label`, 0 does where `zero_is_false`.
    """
    label, tag = row.get("label"), row.get("kto_tag")
    if _is_false(label) or _is_false(tag) or _is_number(tag, 0):
        return True
    return _is_number(label, 0) and (zero_is_false or bool(names.columns.get("label")))


def are_verdicts(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether numbers in `label` say which of several answers to one prompt is wanted.

    So it is where every label is 0 or 1 and some prompt has answers of both: classes and scores of
    a data set for classification do not come apart on one prompt.
    """
    if not may_be_verdicts(rows):
        return False
    labels_by_prompt: dict[str, set[bool]] = {}
    for row in rows:
        if not _is_missing(row.get("label")):
            labels_by_prompt.setdefault(_asked(row), set()).add(_is_number(row["label"], 1))
    return any(len(labels) == 2 for labels in labels_by_prompt.values())


def tell_zero(where: str) -> None:
    """Say how labels of 0, the first of them at `where`, are read, and how to choose."""
    say_once(
        f"{where}: label is 0, read as a note: such rows are trained like any other; if it marks "
        "answers that are not wanted (KTO), say so with --fields label=label; if not, leave it out "
        "with --fields label="
    )


def has_zero(row: Mapping[str, Any]) -> bool:
    """Whether the label of a row is 0."""
    return _is_number(row.get("label"), 0)


def may_be_verdicts(rows: Iterable[Mapping[str, Any]]) -> bool:
    """Whether all labels of rows are 0 or 1, as numbers or as text."""
    labels = [row["label"] for row in rows if not _is_missing(row.get("label"))]
    return all(_is_number(label, 0) or _is_number(label, 1) for label in labels)


def _is_missing(label: Any) -> bool:
    """Whether a row has no label; in a table of numbers NaN stands there."""
    return label is None or (isinstance(label, float) and math.isnan(label))


def _asked(row: Mapping[str, Any]) -> str:
    """What a row asks, as text."""
    turns = row.get("messages")
    asked = turns[:-1] if isinstance(turns, list) else row.get("prompt")
    return json.dumps(asked, default=str, sort_keys=True)


def _is_false(label: Any) -> bool:
    # in CSV everything is text
    return label is False or (isinstance(label, str) and label.strip().lower() == "false")


def _is_number(label: Any, number: int) -> bool:
    """Whether a label is this number, also as text; true and false are none."""
    if isinstance(label, str):
        return label.strip() in (str(number), f"{number}.0")
    return isinstance(label, int | float) and not isinstance(label, bool) and label == number


def refuse_unwanted(row: Mapping[str, Any], where: str, n_unwanted: int, names: Names) -> NoReturn:
    """Raise DatasetError for rows whose answer is not wanted, the first of them at `where`."""
    field = "kto_tag" if row.get("label") is None else "label"
    column, value = names.called(field), row[field]
    wanted, unwanted = "true", "false"
    if _is_number(value, 0):
        # `where` compares texts: 0.0 goes with 1.0
        wanted, unwanted = str(value).strip().replace("0", "1", 1), "0"
    other = "leave it out: --fields label=" if field == "label" else "rename the column"
    rows = "1 row" if n_unwanted == 1 else f"{n_unwanted} rows"
    raise DatasetError(
        f"{where}: {column} is {unwanted} (in {rows}), which marks an answer that is not wanted "
        f"(KTO), and SFT would train it; remove it, or keep the others with where: {{{column}: "
        f"{wanted}}} in an experiment; if it means something else, {other}"
    )
