"""Which format the rows of a data set have, and all of them in fields that samples are made of."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ilp_mlflow.core.config import DataConfig
from ilp_mlflow.core.errors import DatasetError
from ilp_mlflow.core.terminal.notes import say_once
from ilp_mlflow.data.formats import (
    alpaca,
    alpaca_prompt,
    openai,
    sharegpt,
    text,
    trl,
)
from ilp_mlflow.data.formats.names import Names, is_empty
from ilp_mlflow.data.formats.parts import check_finite, refuse_media
from ilp_mlflow.data.formats.preferences import (
    are_verdicts,
    has_zero,
    is_unwanted,
    may_be_verdicts,
    refuse_pairs,
    refuse_unwanted,
    tell_zero,
)
from ilp_mlflow.data.records import Record

FIRST_ROWS = 1000
"""Rows, at most, by whose fields a format is recognised."""
MAX_NAMED = 12
"""Columns, at most, that a message names."""


class Format(NamedTuple):
    """One way to write rows."""

    convert: Callable[[dict[str, Any], str, Names], dict[str, Any]]
    """Makes of a row, under our names, the fields that samples are made of."""
    needed: tuple[tuple[str, ...], ...]
    """Fields of which a row has all of one group."""
    optional: tuple[str, ...] = ()
    """Other fields that are read."""


FORMATS = {
    "trl": Format(
        trl.convert,
        needed=(("messages",), ("prompt", "completion"), ("text",)),
        optional=("tools", "chat_template_kwargs"),
    ),
    "alpaca": Format(
        alpaca.convert,
        needed=(("instruction", "output"),),
        optional=("input", "system", "history", "tools"),
    ),
    "alpaca_prompt": Format(
        alpaca_prompt.convert, needed=(("instruction", "output"),), optional=("input",)
    ),
    "sharegpt": Format(
        sharegpt.convert,
        needed=((sharegpt.COLUMN,), ("messages",)),
        optional=("system", "tools"),
    ),
    "openai": Format(
        openai.convert,
        needed=(("messages",),),
        optional=("tools", "functions", "chat_template_kwargs"),
    ),
    "text": Format(text.convert, needed=(("text",),)),
}
"""The formats by name, as `DataConfig.format` gives it."""
TEXTS = (
    "messages",
    "conversations",
    "prompt",
    "completion",
    "text",
    "instruction",
    "input",
    "output",
    "system",
    "history",
    "tools",
    "functions",
    "system_prompt",
    "context",
    "question",
    "answer",
    "response",
    "reasoning",
    "thinking",
    *openai.UNSAID,
)
"""Columns that are part of a text in one format or another, or are called as if."""
WEIGHTS = ("weight", "sample_weight", "loss_weight", "train", "training")
"""Columns of a whole row that may be meant to weigh it: every row is trained alike."""
OWN_COLUMNS = ("id", "options", "probes", "paraphrases", "source", "label")
"""Columns that mean something of their own beside a text."""
OBVIOUS_PAIRS = (
    ("prompt", "completion"),
    ("question", "answer"),
    ("query", "response"),
    ("prompt", "response"),
    ("prompt", "answer"),
    ("prompt", "output"),
    ("question", "response"),
    ("query", "answer"),
    ("input", "output"),
    ("input", "target"),
    ("input", "response"),
    ("source", "target"),
    ("problem", "solution"),
    ("article", "summary"),
    ("document", "summary"),
    ("user", "assistant"),
    ("context", "response"),
)
"""Columns that are a prompt and its completion by their names."""
ANSWERS = ("response", "answer", "completion", "output")
"""Columns that are the output beside an instruction."""


def canonical_records(
    records: Iterable[Record], name: str, names: Names, format_name: str | None = None
) -> Iterator[Record]:
    """Records with the fields that samples are made of, whatever format they are written in.

    `name` is what messages call the data set. A format that is not given is recognised by the
    fields of the first FIRST_ROWS records; stderr says which it is, unless rows are plainly those
    that are read anyway.

    Raises DatasetError when no format fits, a column of `names` is missing, rows rank answers or
    hold more than text, and when a record does not fit the format.
    """
    records = iter(records)
    first = list(itertools.islice(records, FIRST_ROWS))
    if not first:
        return
    columns = _columns(first)
    refuse_pairs(columns, first, name, names)
    _check_named_columns(columns, name, names)
    named_first = [names.row(record.fields) for record in first]
    chosen = format_name or _recognise(named_first, columns, name)
    row_format = FORMATS[chosen]
    read = _columns_read(row_format, named_first, name, columns)
    _say(chosen, read, named_first, first, name, names)
    everything = itertools.chain(first, records)
    zero_is_false = are_verdicts(named_first)
    zero_is_told = not may_be_verdicts(named_first)
    for record in everything:
        row = names.row(record.fields)
        if "text" not in read and is_unwanted(row, names, zero_is_false):
            others = [names.row(other.fields) for other in everything]
            n_others = sum(is_unwanted(other, names, zero_is_false) for other in others)
            refuse_unwanted(row, record.where, 1 + n_others, names)
        if "text" not in read and has_zero(row) and not zero_is_told:
            tell_zero(record.where)
            zero_is_told = True
        _check_form(row, chosen, read, record.where)
        refuse_media(row, record.where, names)
        fields = row_format.convert(row, record.where, names)
        check_finite(fields, record.where)
        yield record._replace(fields=fields)


def names_of(data: DataConfig) -> Names:
    """What the rows of a data set call things."""
    return Names(data.fields, data.roles)


def _columns(records: Iterable[Record]) -> dict[str, None]:
    """The columns of records with something in them, in order."""
    columns = dict[str, None]()
    for record in records:
        for column, value in record.fields.items():
            if value is not None:
                columns[column] = None
    return columns


def _check_named_columns(columns: Mapping[str, None], name: str, names: Names) -> None:
    """Raise DatasetError where a column is given for a field, and there is none of that name."""
    for field, column in names.of_rows().items():
        # what is called as the field is anyway may be left out as the field may
        if column and column != field and column not in columns:
            raise DatasetError(
                f"{name}: no column '{column}' to be read as {field}; "
                f"columns are {_listed(columns)}"
            )


def _recognise(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, None], name: str) -> str:
    """The name of the format that rows, under our names, have. Raises DatasetError."""
    found = _fields(rows)
    if "messages" in found:
        return _kind_of_messages(rows, found)
    if sharegpt.COLUMN in found:
        return "sharegpt"
    if {"prompt", "completion"} <= found.keys():
        return "trl"
    if {"instruction", "output"} <= found.keys():
        return "alpaca"
    if "text" in found and not {"prompt", "completion", "instruction", "output"} & found.keys():
        return "text"
    suggestion = _suggested(columns, rows)
    if {"prompt", "completion"} & found.keys() and not suggestion:
        # half of a row: what is missing is told of the first row that lacks it
        return "trl"
    raise DatasetError(
        f"{name}: no format fits its columns ({_listed(columns)}); known are "
        f"{', '.join(FORMATS)}; say which are which: --fields "
        f"{suggestion or 'prompt=COLUMN,completion=COLUMN'}"
    )


def _fields(rows: Iterable[Mapping[str, Any]]) -> dict[str, None]:
    fields = dict[str, None]()
    for row in rows:
        fields.update(dict.fromkeys(name for name, value in row.items() if value is not None))
    return fields


def _kind_of_messages(rows: Sequence[Mapping[str, Any]], found: Mapping[str, None]) -> str:
    turns = list[Any]()
    for row in rows:
        if isinstance(row.get("messages"), list):
            turns += row["messages"]
    if any(name in found for name in openai.SIGNS) or any(map(openai.is_openai_turn, turns)):
        return "openai"
    has_from = any(isinstance(turn, dict) and "from" in turn for turn in turns)
    return "sharegpt" if has_from else "trl"


def _columns_read(
    row_format: Format, rows: Sequence[Mapping[str, Any]], name: str, columns: Mapping[str, None]
) -> list[str]:
    """The fields that are read. Raises DatasetError where rows have none that the format needs."""
    found = _fields(rows)
    for group in row_format.needed:
        if any(field in found for field in group):
            read = {*group, *row_format.optional}
            return [field for field in found if field in read]
    needed = " or ".join(" and ".join(group) for group in row_format.needed)
    raise DatasetError(
        f"{name}: this format needs {needed}; columns are {_listed(columns)}; say which are which "
        "with --fields, or leave the format out"
    )


def _check_form(row: Mapping[str, Any], chosen: str, read: Sequence[str], where: str) -> None:
    """Raise DatasetError for a row that has nothing of what the others are read by."""
    needed = {field for group in FORMATS[chosen].needed for field in group}
    # a text is trained whole, a completion behind its prompt: that is never one data set
    if "text" in needed:
        needed = {"text"} if "text" in read else needed - {"text"}
    if any(row.get(field) is not None for field in needed):
        return
    present = [name for name, value in row.items() if value is not None]
    raise DatasetError(
        f"{where}: has {_listed(present)}, but the data set is read as {chosen} "
        f"({', '.join(read)}); give rows of one format"
    )


def _say(
    chosen: str,
    read: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    records: Sequence[Record],
    name: str,
    names: Names,
) -> None:
    """Say on stderr as what rows are read, where that is not plain."""
    unread = dict[str, None]()
    for row, record in zip(rows, records, strict=True):
        # whoever names columns may have forgotten one
        texts = [*TEXTS, *WEIGHTS]
        if names.columns:
            texts = [name for name in row if name not in OWN_COLUMNS]
        others = (name for name in texts if name not in read and not is_empty(row.get(name)))
        unread.update(dict.fromkeys(others))
        unread.update(dict.fromkeys(names.hidden(record.fields)))
    if chosen == "trl" and not unread and not names.columns and "text" not in read:
        return
    fields = [_assignment(field, names) for field in read]
    note = f"{name}: read as {chosen} ({', '.join(fields)})"
    if "text" in read:
        note += ", every token of which is trained"
    if unread:
        note += f"; not read: {_listed(unread)}"
    say_once(note)


def _assignment(field: str, names: Names) -> str:
    column = names.called(field)
    return field if column == field else f"{field}={column}"


def _suggested(columns: Mapping[str, None], rows: Iterable[Mapping[str, Any]]) -> str:
    """Fields for columns that are plainly something; "" where none are."""
    by_lower = {column.lower(): column for column in columns}
    if "instruction" in by_lower:
        column = by_lower["instruction"]
        instruction = "" if column == "instruction" else f"instruction={column},"
        for answer in ANSWERS:
            if answer in by_lower:
                context = ",input=context" if "context" in columns else ""
                return f"{instruction}output={by_lower[answer]}{context}"
    for prompt, completion in OBVIOUS_PAIRS:
        if prompt in by_lower and completion in by_lower:
            return f"prompt={by_lower[prompt]},completion={by_lower[completion]}"
    for row in rows:
        for column, value in row.items():
            if isinstance(value, list) and value and _has_role(value[0]):
                return f"messages={column}"
    return ""


def _has_role(turn: Any) -> bool:
    return isinstance(turn, dict) and ("role" in turn or "from" in turn)


def _listed(columns: Iterable[str]) -> str:
    named = list(columns)
    if len(named) > MAX_NAMED:
        return f"{', '.join(named[:MAX_NAMED])} and {len(named) - MAX_NAMED} more"
    return ", ".join(named) or "nothing"
