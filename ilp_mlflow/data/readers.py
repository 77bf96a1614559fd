"""Rows from where they lie: files, folders, what MLflow finds at a location, the Hub."""

from __future__ import annotations

import csv
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ilp_mlflow.core.config import REMOTE_URI, DataConfig
from ilp_mlflow.core.errors import DatasetError, first_line


class Record(NamedTuple):
    """One row of a data set."""

    where: str
    """Its place, as messages name it: `facts.jsonl line 3`."""
    number: int
    """Its number in the file, counted from 1."""
    fields: dict[str, Any]


def read_records(data: DataConfig) -> Iterator[Record]:
    """The rows of a file, a folder, what MLflow finds at a location, or a data set of the Hub.

    Raises DatasetError when that is missing, cannot be fetched, is of an unknown kind or damaged.
    """
    if data.dataset is not None:
        return _read_hub(data)
    location = str(data.path)
    if REMOTE_URI.match(location):
        return _read_remote(location)
    return _read_local(Path(location), location)


def as_records(rows: Any) -> Any:
    """The rows of a data set of `mlflow.data` (pandas, Hugging Face); anything else as it is."""
    import pyarrow as pa

    if hasattr(rows, "df"):
        return pa.Table.from_pandas(rows.df, preserve_index=False).to_pylist()
    return getattr(rows, "ds", rows)


def _read_local(path: Path, name: str) -> Iterator[Record]:
    """The rows of a file or folder that is called `name` in messages."""
    if not path.exists():
        raise DatasetError(
            f"{name}: no such file; check the path, "
            "which in an experiment is relative to the experiment's file"
        )
    if path.is_dir():
        return _read_saved(path, name)
    if path.suffix not in READERS:
        raise DatasetError(
            f"{name}: unknown kind of file '{path.suffix}'; "
            f"use {', '.join(READERS)} or a data set folder"
        )
    return READERS[path.suffix](path, name)


def _read_remote(location: str) -> Iterator[Record]:
    """The rows of what MLflow finds at a location; its copy is deleted when they are read."""
    import mlflow

    with tempfile.TemporaryDirectory() as scratch:
        try:
            fetched = _fetch(location, scratch)
        except DatasetError:
            raise
        # every store raises its own kinds
        except Exception as error:
            raise DatasetError(
                f"{location}: cannot be fetched ({first_line(error)}); "
                f"check it; MLflow's store is {mlflow.get_tracking_uri()}"
            ) from None
        if isinstance(fetched, str):
            yield from _read_local(Path(fetched), location)
        else:
            yield from _number_rows(fetched, location)


def _fetch(location: str, scratch: str) -> Any:
    """What is at a location: the path of a copy below `scratch`, or a data set of the Hub."""
    import mlflow
    from mlflow.data.http_dataset_source import HTTPDatasetSource

    run = re.fullmatch(r"runs:/(\w+)/?", location)
    if run:
        return _fetch_run_input(run[1], scratch)
    if location.startswith("http"):
        return HTTPDatasetSource(location).load(scratch)
    return mlflow.artifacts.download_artifacts(location, dst_path=scratch)


def _fetch_run_input(run_id: str, scratch: str) -> Any:
    """The data set that was logged as the input of a run, as from `_fetch`.

    Raises DatasetError when that is none or several, or one that does not say where its rows lie.
    """
    import mlflow

    inputs = mlflow.get_run(run_id).inputs.dataset_inputs
    # one that was logged for several purposes is one
    dataset_by_digest = {logged.dataset.digest: logged.dataset for logged in inputs}
    if len(dataset_by_digest) != 1:
        names = ", ".join(dataset.name for dataset in dataset_by_digest.values()) or "none"
        raise DatasetError(
            f"runs:/{run_id}: a run with one data set logged as input is needed, "
            f"it has {names}; give a file's location"
        )
    source = mlflow.data.get_source(*dataset_by_digest.values())
    kind = source._get_source_type()
    if kind == "code":
        raise DatasetError(
            f"runs:/{run_id}: its data set was logged without a source to load it from; "
            "give a file's location"
        )
    return source.load() if kind == "hugging_face" else source.load(scratch)


def _read_jsonl(path: Path, name: str) -> Iterator[Record]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                where = f"{name} line {number}"
                # a byte order mark may stand in front of the first line
                encoding = "utf-8-sig" if number == 1 else "utf-8"
                yield Record(where, number, _parse_json_line(line, encoding, where))


def _parse_json_line(line: bytes, encoding: str, where: str) -> dict[str, Any]:
    """The object on a line of a JSONL file. Raises DatasetError when it is none, or not UTF-8."""
    try:
        fields = json.loads(line.decode(encoding))
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{where}: not UTF-8 (byte {error.start + 1}); save the file as UTF-8"
        ) from None
    except json.JSONDecodeError as error:
        raise DatasetError(
            f"{where}: not valid JSON ({error.msg} at column {error.colno}); is the line cut off?"
        ) from None
    # Python decodes `\ud83d` alone to text that nothing can encode again
    if b"\\ud" in line.lower() and not _is_encodable(fields):
        raise DatasetError(
            f"{where}: holds half of a surrogate pair (\\ud800 to \\udfff), "
            "which is no text; remove it"
        )
    if not isinstance(fields, dict):
        raise DatasetError(
            f"{where}: expected an object with 'prompt' and 'completion', "
            f"got {type(fields).__name__}"
        )
    return fields


def _is_encodable(fields: Any) -> bool:
    try:
        json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_csv(path: Path, name: str) -> Iterator[Record]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            for number, row in enumerate(reader, 1):
                where = f"{name} row {number}"
                # what the reader makes of a row with too many fields, or too few
                if None in row or None in row.values():
                    n_fields = len(reader.fieldnames or ())
                    raise DatasetError(
                        f"{where}: has not as many fields as the header ({n_fields})"
                    )
                yield Record(where, number, _without_empty_fields(row))
    except UnicodeDecodeError:
        raise DatasetError(f"{name}: not UTF-8; save the file as UTF-8") from None
    except csv.Error as error:
        raise DatasetError(f"{name}: not valid CSV ({error}); is the file cut off?") from None


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
    yield from _number_rows(table.to_pylist(), name)


def _read_saved(path: Path, name: str) -> Iterator[Record]:
    """The rows of a folder that `datasets.save_to_disk` wrote."""
    import datasets

    try:
        rows = datasets.load_from_disk(str(path))
    except FileNotFoundError:
        raise DatasetError(
            f"{name}: a folder, but not one written by datasets.save_to_disk"
        ) from None
    if isinstance(rows, datasets.DatasetDict):
        raise DatasetError(
            f"{name}: holds several splits ({', '.join(rows)}); give the folder of one of them"
        )
    yield from _number_rows(rows, name)


def _read_hub(data: DataConfig) -> Iterator[Record]:
    import datasets

    try:
        rows = datasets.load_dataset(str(data.dataset), data.config, split=data.split)
    # the library raises a dozen kinds, network faults among them
    except Exception as error:
        raise DatasetError(
            f"data set '{data.dataset}' [{data.split}]: {first_line(error)}; "
            "check name, config and split"
        ) from None
    yield from _number_rows(rows, f"{data.dataset}[{data.split}]")


def _number_rows(rows: Iterable[Any], name: str) -> Iterator[Record]:
    for number, fields in enumerate(rows, 1):
        yield Record(f"{name} row {number}", number, dict(fields))


READERS: dict[str, Callable[[Path, str], Iterator[Record]]] = {
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
"""How to read a file, by the end of its name."""
