"""Rows in a file, by its kind: JSON lines, a JSON array, CSV, TSV, Parquet; text gzipped, too."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from ilp_mlflow.core.errors import DatasetError, first_line
from ilp_mlflow.core.lfs_pointers import FAULT, is_lfs_pointer
from ilp_mlflow.data.records import Record, number_rows

ONE_ROW = {"messages", "conversations", "prompt", "instruction", "text"}
"""Keys by which an object is a row itself rather than something that holds rows."""
NEXT_ROW = re.compile(r"[\s,]*")
"""What stands in front of a row of an array."""
GZIP = ".gz"
"""End of the name of a file that is unpacked as it is read."""
GZIP_MAGIC = b"\x1f\x8b"
"""What such a file begins with."""
COMMA, TAB = ",", "\t"
SEPARATORS = {";": "semicolons", TAB: "tabs", "|": "bars", COMMA: "commas"}
"""What stands between the fields of tables; the first and the third are not read."""


def kind_of(path: Path) -> str:
    """The end of a file's name that tells its kind: `.jsonl`, also of `rows.jsonl.gz`; "" if none.

    Only what is text is read from a gzipped file.
    """
    suffix = path.suffix.lower()
    if suffix != GZIP:
        return suffix
    inner = Path(path.stem).suffix.lower()
    return inner if inner in TEXT_KINDS else suffix


def is_readable(path: Path) -> bool:
    """Whether a file is of a kind that holds rows, by its name."""
    return kind_of(path) in KINDS


def read_file(path: Path, name: str) -> Iterator[Record]:
    """The rows of a file that is called `name` in messages.

    Raises DatasetError when its kind is unknown, and when it is damaged or one of its rows is.
    """
    kind = kind_of(path)
    if kind not in KINDS:
        raise DatasetError(
            f"{name}: unknown kind of file '{path.suffix}'; "
            f"use {', '.join(KINDS)} or a data set folder"
        )
    if is_lfs_pointer(path):
        raise DatasetError(f"{name}: {FAULT}")
    return KINDS[kind](path, name)


def parse_json(text: str) -> Any:
    """A JSON document in which no object gives a key twice.

    Raises json.JSONDecodeError, or DuplicateKeyError for such a key.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError):
        # Python refuses numbers of thousands of digits, and objects nested as deep
        raise json.JSONDecodeError("number too long, or objects nested too deep", text, 0) from None


class DuplicateKeyError(Exception):
    """A key that an object gives twice."""


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise DuplicateKeyError(next(name for name in names if names.count(name) > 1))
    return fields


def _read_bytes(path: Path, name: str) -> Iterator[bytes]:
    """The lines of a file, unpacked where it is gzipped."""
    try:
        with gzip.open(path) if path.suffix.lower() == GZIP else path.open("rb") as lines:
            if path.suffix.lower() == GZIP and not _is_gzipped(path):
                raise DatasetError(f"{name}: not gzipped; take the {GZIP} off its name")
            yield from lines
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DatasetError(
            f"{name}: not a whole gzip file ({first_line(error)}); is it cut off?"
        ) from None


def _is_gzipped(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) in (GZIP_MAGIC, b"")


def _read_jsonl(path: Path, name: str) -> Iterator[Record]:
    for number, line in enumerate(_read_bytes(path, name), 1):
        # a byte order mark may stand in front of the first line
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.strip():
            where = f"{name} line {number}"
            yield Record(where, number, _parse_line(line, where, is_first=number == 1))


def _parse_line(line: bytes, where: str, is_first: bool) -> dict[str, Any]:
    """The object on a line of a JSONL file. Raises DatasetError when it is none, or not UTF-8."""
    try:
        fields = parse_json(line.decode())
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{where}: not UTF-8 (byte {error.start + 1}); save the file as UTF-8"
        ) from None
    except json.JSONDecodeError as error:
        hint = "is the line cut off?"
        if is_first and line.lstrip().startswith(b"["):
            hint = "if the file is one array, name it .json"
        raise DatasetError(
            f"{where}: not valid JSON ({error.msg} at column {error.colno}); {hint}"
        ) from None
    except DuplicateKeyError as error:
        _refuse_twice(str(error), where)
    _check_row(fields, where, b"\\ud" in line.lower())
    return fields  # type: ignore[no-any-return]


def _check_row(fields: Any, where: str, may_be_halved: bool) -> None:
    """Raise DatasetError for a row that is no object, or holds what is no text."""
    # Python decodes `\ud83d` alone to text that nothing can encode again
    if may_be_halved and not _is_encodable(fields):
        raise DatasetError(
            f"{where}: holds half of a surrogate pair (\\ud800 to \\udfff), "
            "which is no text; remove it"
        )
    if not isinstance(fields, dict):
        hint = "; if the file is one array, name it .json" if isinstance(fields, list) else ""
        raise DatasetError(
            f"{where}: expected an object with the fields of a row, "
            f"got {type(fields).__name__}{hint}"
        )


def _refuse_twice(key: str, where: str) -> NoReturn:
    raise DatasetError(f"{where}: key '{key}' is given twice in one object; keep one of them")


def _is_encodable(fields: Any) -> bool:
    try:
        json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_json(path: Path, name: str) -> Iterator[Record]:
    """The objects of an array. Lines of objects are read as such: many call them `.json`, too."""
    content = b"".join(_read_bytes(path, name))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{name}: not UTF-8 (byte {error.start + 1}); save the file as UTF-8"
        ) from None
    if not text.strip():
        return
    try:
        rows = parse_json(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            yield from _read_jsonl(path, name)
            return
        raise DatasetError(
            f"{name} line {error.lineno}: not valid JSON ({error.msg} at column {error.colno}); "
            "is the file cut off?"
        ) from None
    except DuplicateKeyError as error:
        _refuse_twice(str(error), _place_of_duplicate(text, name))
    if not isinstance(rows, list):
        raise DatasetError(f"{name}: expected an array of rows, got {_describe(rows)}")
    may_be_halved = "\\ud" in text.lower()
    for number, fields in enumerate(rows, 1):
        where = f"{name} row {number}"
        _check_row(fields, where, may_be_halved)
        yield Record(where, number, fields)


def _place_of_duplicate(text: str, name: str) -> str:
    """The first row of an array that gives a key twice; the file where it is no array."""
    position = text.find("[") + 1
    if not text.lstrip().startswith("["):
        return name
    decoder = json.JSONDecoder(object_pairs_hook=_unique_keys)
    for number in itertools.count(1):
        start = NEXT_ROW.match(text, position).end()  # type: ignore[union-attr]
        try:
            _, position = decoder.raw_decode(text, start)
        except DuplicateKeyError:
            return f"{name} row {number}"
    return name


def _describe(document: Any) -> str:
    """What a JSON document is that is no array, and how to make one of it."""
    if not isinstance(document, dict):
        return f"{type(document).__name__}; write [{{...}}, {{...}}]"
    keys = ", ".join(list(document)[:10]) or "no keys"
    if _is_by_columns(document):
        return f"one object with {keys}, which holds columns; save rows (pandas: orient='records')"
    if document and all(isinstance(value, dict) for value in document.values()):
        return f"one object with {keys}; save the rows in it as an array"
    lists = [name for name, value in document.items() if isinstance(value, list)]
    hint = "write [...] around it, if it is one row"
    if lists and not ONE_ROW & document.keys():
        hint = f"if the rows are in '{lists[0]}', save that array as a file of its own"
    return f"one object with {keys}; {hint}"


def _is_by_columns(document: dict[str, Any]) -> bool:
    """Whether an object holds the columns of a table: lists, or objects by the number of a row."""
    columns = list(document.values())
    if all(isinstance(column, dict) and "0" in column for column in columns):
        return bool(columns) and "0" not in document
    values = [value for column in columns if isinstance(column, list) for value in column]
    is_table = len(columns) > 1 and all(isinstance(column, list) for column in columns)
    return is_table and not any(isinstance(value, dict) for value in values)


def _read_tsv(path: Path, name: str) -> Iterator[Record]:
    return _read_csv(path, name, TAB)


def _read_csv(path: Path, name: str, separator: str = COMMA) -> Iterator[Record]:
    # a conversation is longer than what the csv module takes for a field
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    content = b"".join(_read_bytes(path, name))
    try:
        text = content.decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        _check_header(list(reader.fieldnames or ()), name, separator)
        for number, row in enumerate(reader, 1):
            where = f"{name} row {number}"
            # what the reader makes of a row with too many fields, or too few
            if None in row or None in row.values():
                n_fields = len(reader.fieldnames or ())
                raise DatasetError(f"{where}: has not as many fields as the header ({n_fields})")
            yield Record(where, number, _without_empty_fields(row))
    except UnicodeDecodeError:
        raise DatasetError(f"{name}: not UTF-8; save the file as UTF-8") from None
    except csv.Error as error:
        kind = "CSV" if separator == COMMA else "TSV"
        raise DatasetError(
            f"{name}: not valid {kind} ({error}); is the file cut off, or a field begun with a "
            "quote that is none? Write it as spreadsheets and pandas do"
        ) from None


def _check_header(columns: list[str], name: str, separator: str) -> None:
    for other, called in SEPARATORS.items():
        if len(columns) == 1 and other != separator and other in columns[0]:
            hint = f"save it with {SEPARATORS[separator]}"
            if other in (TAB, COMMA):
                hint = f"name it {'.tsv' if other == TAB else '.csv'}"
            raise DatasetError(
                f"{name}: has one column, '{columns[0]}': fields are separated by {called}; {hint}"
            )
    for column in columns:
        if columns.count(column) > 1:
            raise DatasetError(
                f"{name}: column '{column}' is given twice in the header; rename or remove one"
            )


def _without_empty_fields(row: dict[str, Any]) -> dict[str, Any]:
    """A row of CSV, in which a field that is left out is empty; an empty completion is a fault."""
    return {name: value for name, value in row.items() if value != "" or name == "completion"}


def _read_parquet(path: Path, name: str) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{name}: not a Parquet file ({first_line(error)})") from None
    yield from number_rows(table.to_pylist(), name)


TEXT_KINDS: dict[str, Callable[[Path, str], Iterator[Record]]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
}
"""How to read a file that may be gzipped, by the end of its name."""
KINDS = {**TEXT_KINDS, ".parquet": _read_parquet}
"""How to read any file of rows."""
