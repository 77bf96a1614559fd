"""Where rows lie: files, folders, what MLflow finds, the Hub; one that cannot be read is named with its place."""

from __future__ import annotations

import csv
import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ilp_mlflow.core.config import REMOTE_URI, DataConfig
from ilp_mlflow.core.errors import DatasetError, first_line

Record = tuple[str, int, dict[str, Any]]
"""Where the row is (for messages), its number in the file counted from 1, its fields."""


def read_records(data: DataConfig) -> Iterator[Record]:
    """The rows of a file, a folder, what MLflow finds at a location, or a data set of the Hub.

    Raises DatasetError when it is missing, cannot be fetched, is of an unknown kind or not readable.
    """
    if data.dataset is not None:
        return _hub(data)
    location = str(data.path)
    return _fetched(location) if REMOTE_URI.match(location) else _local(Path(location), location)


def as_records(rows: Any) -> Any:
    """The rows in a data set of `mlflow.data` that was made from pandas or from Hugging Face; anything else as it is."""
    import pyarrow as pa

    if hasattr(rows, "df"):
        return pa.Table.from_pandas(rows.df, preserve_index=False).to_pylist()
    return getattr(rows, "ds", rows)


def _local(path: Path, name: str) -> Iterator[Record]:
    """The rows of a file or folder that is called `name` in messages."""
    if not path.exists():
        raise DatasetError(
            f"{name}: no such file; check the path, which in an experiment is relative to the experiment's file"
        )
    if path.is_dir():
        return _saved(path, name)
    readers = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
    if path.suffix not in readers:
        raise DatasetError(
            f"{name}: unknown kind of file '{path.suffix}'; use {', '.join(readers)} or a data set folder"
        )
    return readers[path.suffix](path, name)


def _fetched(location: str) -> Iterator[Record]:
    """The rows of what MLflow finds at a location; its copy is there while they are read."""
    import mlflow
    from mlflow.data.http_dataset_source import HTTPDatasetSource

    run = re.fullmatch(r"runs:/(\w+)/?", location)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            if run:
                found = _input(run[1], scratch)
            elif location.startswith("http"):
                found = HTTPDatasetSource(location).load(scratch)
            else:
                found = mlflow.artifacts.download_artifacts(location, dst_path=scratch)
        except DatasetError:
            raise
        except Exception as error:  # every store raises its own kinds
            store = mlflow.get_tracking_uri()
            raise DatasetError(
                f"{location}: cannot be fetched ({first_line(error)}); check it; MLflow's store is {store}"
            ) from None
        if isinstance(found, str):
            yield from _local(Path(found), location)
        else:
            yield from _rows(found, location)


def _input(run_id: str, scratch: str) -> Any:
    """What was logged as the input of a run: a path below `scratch`, or a data set of the Hub. Raises DatasetError."""
    import mlflow

    given = {i.dataset.digest: i.dataset for i in mlflow.get_run(run_id).inputs.dataset_inputs}
    if len(given) != 1:
        names = ", ".join(d.name for d in given.values()) or "none"
        raise DatasetError(
            f"runs:/{run_id}: a run with one data set logged as input is needed, it has {names}; give a file's location"
        )
    source = mlflow.data.get_source(*given.values())
    if source._get_source_type() == "code":
        raise DatasetError(
            f"runs:/{run_id}: its data set was logged without a source to load it from; give a file's location"
        )
    return source.load() if source._get_source_type() == "hugging_face" else source.load(scratch)


def _jsonl(path: Path, name: str) -> Iterator[Record]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            where = f"{name} line {number}"
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                raise DatasetError(
                    f"{where}: not UTF-8 (byte {error.start + 1}); save the file as UTF-8"
                ) from None
            except json.JSONDecodeError as error:
                raise DatasetError(
                    f"{where}: not valid JSON ({error.msg} at column {error.colno}); is the line cut off?"
                ) from None
            if b"\\ud" in line.lower() and not _encodable(record):
                raise DatasetError(
                    f"{where}: holds half of a surrogate pair (\\ud800 to \\udfff), which is no text; remove it"
                )
            if not isinstance(record, dict):
                raise DatasetError(
                    f"{where}: expected an object with 'prompt' and 'completion', got {type(record).__name__}"
                )
            yield where, number, record


def _encodable(record: Any) -> bool:
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _csv(path: Path, name: str) -> Iterator[Record]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            for number, record in enumerate(reader, 1):
                where = f"{name} row {number}"
                if None in record or None in record.values():
                    raise DatasetError(
                        f"{where}: has not as many fields as the header ({len(reader.fieldnames or ())})"
                    )
                yield (
                    where,
                    number,
                    {
                        key: value
                        for key, value in record.items()
                        if value != "" or key == "completion"
                    },
                )
    except UnicodeDecodeError:
        raise DatasetError(f"{name}: not UTF-8; save the file as UTF-8") from None
    except csv.Error as error:
        raise DatasetError(f"{name}: not valid CSV ({error}); is the file cut off?") from None


def _parquet(path: Path, name: str) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{name}: not a Parquet file ({first_line(error)})") from None
    for number, record in enumerate(table.to_pylist(), 1):
        yield f"{name} row {number}", number, record


def _saved(path: Path, name: str) -> Iterator[Record]:
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
    yield from _rows(rows, name)


def _rows(rows: Iterable[Any], name: str) -> Iterator[Record]:
    for number, record in enumerate(rows, 1):
        yield f"{name} row {number}", number, dict(record)


def _hub(data: DataConfig) -> Iterator[Record]:
    import datasets

    try:
        rows = datasets.load_dataset(str(data.dataset), data.config, split=data.split)
    except Exception as error:  # the library raises a dozen kinds, network faults among them
        raise DatasetError(
            f"data set '{data.dataset}' [{data.split}]: {first_line(error)}; check name, config and split"
        ) from None
    yield from _rows(rows, f"{data.dataset}[{data.split}]")
