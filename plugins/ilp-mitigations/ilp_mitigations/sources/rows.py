"""Records of a file, a folder or a data set, whatever its format."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ilp_mlflow.plugin import PluginError

MAX_DOCUMENT = 1000
"""Characters of a text file that are read as one document, at most."""
LOADERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
"""Name of the loader in `datasets` for a data file, by suffix."""
TEXT_SUFFIXES = (".txt", ".md")
"""Suffixes of text files."""
SAVED_DATASET = ("state.json", "dataset_dict.json")
"""Files that `datasets.save_to_disk` leaves in its folder: one of the two."""


def read_records(location: str) -> Iterator[dict[str, Any]]:
    """The records at a location, whatever their format.

    A location is a data file (JSONL, JSON, Parquet, CSV), a text file, a folder of either, a folder
    that `datasets.save_to_disk` wrote, or a data set on the Hub (`owner/name`). In a folder with
    data files the text files are not read: they are about the data. Each paragraph of a text file
    is a record with `text`, a long one several of at most MAX_DOCUMENT characters. A paragraph ends
    at a blank line or, in a file without any, at every line end.

    Raises PluginError when nothing can be read there, or data of several formats or splits.
    """
    path = Path(location).expanduser()
    data_files: list[Path] = []
    text_files: list[Path] = []
    for file in _files_of(path):
        if file.suffix in LOADERS:
            data_files.append(file)
        elif file.suffix in TEXT_SUFFIXES:
            text_files.append(file)
    if text_files and not data_files:
        yield from _read_texts(text_files)
    else:
        yield from _read_dataset(location, path, data_files)


def _is_saved_dataset(path: Path) -> bool:
    """Whether `datasets.save_to_disk` wrote the folder."""
    return path.is_dir() and any((path / name).exists() for name in SAVED_DATASET)


def _files_of(path: Path) -> list[Path]:
    """The file, or all files of the folder and those in it, sorted; none of a saved data set."""
    if path.is_file():
        return [path]
    # a saved data set has files of its own format, for `datasets` to read as one
    if not path.is_dir() or _is_saved_dataset(path):
        return []
    return sorted(file for file in path.rglob("*") if file.is_file())


def _read_dataset(
    location: str, path: Path, data_files: Sequence[Path]
) -> Iterable[dict[str, Any]]:
    """The data set in the saved folder `path`, in data files, or at `location` on the Hub."""
    import datasets

    formats = sorted({LOADERS[file.suffix] for file in data_files})
    if len(formats) > 1:
        raise PluginError(
            f"{location}: holds data of several formats ({', '.join(formats)}); give one file"
        )
    try:
        if _is_saved_dataset(path):
            dataset = datasets.load_from_disk(str(path))
        elif data_files:
            names = [str(file) for file in data_files]
            dataset = datasets.load_dataset(formats[0], data_files=names, split="train")
        else:
            dataset = datasets.load_dataset(location, split="train")
    except Exception as error:
        # each format has errors of its own, some of many lines
        reason = (str(error).splitlines() or [""])[0]
        raise PluginError(
            f"{location}: cannot be read ({type(error).__name__}: {reason}); "
            "give a file, folder or Hub id"
        ) from None
    if isinstance(dataset, datasets.DatasetDict):
        splits = ", ".join(dataset)
        raise PluginError(
            f"{location}: holds several splits ({splits}); give the folder of one of them"
        )
    records: Iterable[dict[str, Any]] = dataset
    return records


def _read_texts(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """The paragraphs of text files, long ones in pieces."""
    for file in files:
        try:
            text = file.read_text(encoding="utf-8").strip()
        except UnicodeDecodeError:
            raise PluginError(f"{file}: not UTF-8; save the file as UTF-8") from None
        separator = "\n\n" if "\n\n" in text else "\n"
        for paragraph in text.split(separator):
            for piece in textwrap.wrap(paragraph, MAX_DOCUMENT, break_long_words=False):
                yield {"text": piece}
