"""Rows from where they lie: files, folders, what MLflow finds at a location, the Hub."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ilp_mlflow.core.config import REMOTE_URI, DataConfig
from ilp_mlflow.core.errors import DatasetError, first_line, suggest
from ilp_mlflow.core.lfs_pointers import FAULT, is_lfs_pointer
from ilp_mlflow.data.file_kinds import KINDS, is_readable, kind_of, read_file
from ilp_mlflow.data.records import Record, number_rows

PATTERN = re.compile(r"[*?\[]")
"""What makes a part of a path a pattern."""
ALL_ROWS = "train"
"""The split of what has no splits, as the `datasets` library calls it."""
SPLIT_NAME = re.compile(r"(?:^|[^a-z])(train|test|validation|valid|val|dev|eval)(?:[^a-z]|$)")
"""A word in a file's name that says what its rows are for."""


def read_records(data: DataConfig) -> Iterator[Record]:
    """The rows of files, a folder, what MLflow finds at a location, or a data set of the Hub.

    Several files are read in the order of their names. Raises DatasetError when there is none, it
    cannot be fetched, is of an unknown kind or damaged.
    """
    if data.dataset is not None:
        return _read_hub(data)
    location = str(data.path)
    if REMOTE_URI.match(location):
        return _read_remote(location, data.split)
    return _read_local(Path(location), location, data.split)


def as_records(rows: Any) -> Any:
    """The rows of a data set of `mlflow.data` (pandas, Hugging Face); anything else as it is."""
    import pyarrow as pa

    if hasattr(rows, "df"):
        return pa.Table.from_pandas(rows.df, preserve_index=False).to_pylist()
    return getattr(rows, "ds", rows)


def _read_local(path: Path, name: str, split: str) -> Iterator[Record]:
    """The rows of a file, folder or pattern that is called `name` in messages."""
    if path.is_dir():
        return _read_folder(path, name, split)
    if path.exists():
        _refuse_split(split, name)
        return read_file(path, name)
    if PATTERN.search(str(path)):
        _refuse_split(split, name)
        return _read_files({str(file): file for file in _matches(path, name)}, name)
    raise DatasetError(
        f"{name}: no such file; check the path, "
        "which in an experiment is relative to the experiment's file"
    )


def _refuse_split(split: str, name: str) -> None:
    """Raise DatasetError for a split of what has none, of which all rows would be read."""
    if split != ALL_ROWS:
        raise DatasetError(
            f"{name}: has no splits, so no '{split}'; leave the split out, give the file of that "
            "split, or a limit"
        )


def _matches(pattern: Path, name: str) -> list[Path]:
    """The files that a pattern describes, by name."""
    # a folder that exists may have brackets in its name, which are then no pattern
    root = next(folder for folder in pattern.parents if folder.exists())
    matches = sorted(root.glob(str(pattern.relative_to(root))))
    # as in a shell, a pattern leaves hidden files out
    found = [path for path in matches if path.is_file() and not path.name.startswith(".")]
    if not found:
        raise DatasetError(f"{name}: no file matches; check the pattern and the folder")
    return found


def _read_folder(path: Path, name: str, split: str) -> Iterator[Record]:
    """The rows of a saved data set, or of all files of a folder."""
    if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
        return _read_saved(path, name, split)
    if (path / "dataset_info.json").exists():
        raise DatasetError(
            f"{name}: a folder with a list of data sets; give {name}/dataset_info.json#NAME"
        )
    _refuse_split(split, name)
    files = sorted(file for file in path.iterdir() if _has_rows(file))
    if not files:
        below = sorted(file for file in path.rglob("*") if _has_rows(file))
        hint = f"; there are some in {below[0].parent}" if below else f"; use {', '.join(KINDS)}"
        raise DatasetError(
            f"{name}: a folder without files of rows, and not one written by "
            f"datasets.save_to_disk{hint}"
        )
    _check_alike(files, name)
    return _read_files({f"{name}/{file.name}": file for file in files}, name)


def _has_rows(path: Path) -> bool:
    return path.is_file() and is_readable(path) and not path.name.startswith(".")


def _check_alike(files: Sequence[Path], name: str) -> None:
    """Raise DatasetError where the files of a folder are hardly shards of one data set."""
    kinds = sorted({kind_of(file) for file in files})
    if len(kinds) > 1:
        raise DatasetError(
            f"{name}: holds files of several kinds ({', '.join(kinds)}); "
            f"give one of them, or a pattern such as {name}/*{kinds[0]}"
        )
    matches = [SPLIT_NAME.search(file.name.lower()) for file in files]
    splits = sorted({match[1] for match in matches if match})
    if len(splits) > 1:
        raise DatasetError(
            f"{name}: holds files of several splits ({', '.join(splits)}); "
            f"give one of them, or a pattern such as {name}/{splits[-1]}*"
        )


def _read_files(file_by_name: Mapping[str, Path], name: str) -> Iterator[Record]:
    """The rows of several files in turn, numbered through; each is called by its own name."""
    for file_name, file in file_by_name.items():
        if not is_readable(file):
            raise DatasetError(
                f"{file_name}: unknown kind of file '{file.suffix}', matched by {name}; "
                f"use {', '.join(KINDS)}"
            )
    before = 0
    for file_name, file in file_by_name.items():
        last = before
        for record in read_file(file, file_name):
            last = before + record.number
            yield record._replace(number=last)
        before = last


def _read_remote(location: str, split: str) -> Iterator[Record]:
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
            yield from _read_local(Path(fetched), location, split)
        else:
            yield from number_rows(fetched, location)


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


def _read_saved(path: Path, name: str, split: str) -> Iterator[Record]:
    """The rows of a folder that `datasets.save_to_disk` wrote; of several splits one."""
    import datasets

    try:
        rows = datasets.load_from_disk(str(path))
    # what the library raises for a damaged folder is of many kinds
    except Exception as error:
        for file in sorted(path.rglob("*.arrow")):
            if is_lfs_pointer(file):
                raise DatasetError(f"{name}/{file.relative_to(path)}: {FAULT}") from None
        raise DatasetError(
            f"{name}: not a whole folder of datasets.save_to_disk ({first_line(error)}); "
            "save it again"
        ) from None
    if isinstance(rows, datasets.DatasetDict):
        if split not in rows:
            hint = "for the first rows of it, give a limit" if "[" in split else ""
            raise DatasetError(f"{name}: no split '{split}' in it; {hint or suggest(split, rows)}")
        rows, name = rows[split], f"{name}[{split}]"
    elif split not in (ALL_ROWS, str(rows.split)):
        _refuse_split(split, name)
    yield from number_rows(rows, name)


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
    yield from number_rows(rows, f"{data.dataset}[{data.split}]")
