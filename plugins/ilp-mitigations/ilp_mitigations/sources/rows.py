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
    """Records of a data file (JSONL, JSON, Parquet, CSV) or text file, a folder, or a data set.

    A folder may hold files of either kind, or be one that `datasets.save_to_disk` wrote; a data set
    is named as on the Hub (`owner/name`). Of a folder that has data files only those are read:
    texts beside them are about them. Of a text file each paragraph is a record with `text`, long
    ones in pieces of MAX_DOCUMENT characters. A paragraph ends at a blank line, or at any line end
    where there is no blank one.

    Raises PluginError when nothing can be read there, or data of several formats or splits.
    """
    path = Path(location).expanduser()
    saved = _is_saved_dataset(path)
    files = [] if saved else _files_of(path)
    data_files = [file for file in files if file.suffix in LOADERS]
    text_files = [file for file in files if file.suffix in TEXT_SUFFIXES]
    if text_files and not data_files:
        yield from _read_texts(text_files)
    else:
        yield from _read_dataset(location, path, saved, data_files)


def _is_saved_dataset(path: Path) -> bool:
    """Whether `datasets.save_to_disk` wrote the folder."""
    return path.is_dir() and any((path / name).exists() for name in SAVED_DATASET)


def _files_of(path: Path) -> list[Path]:
    """The file, or all files of the folder and those in it, sorted."""
    if path.is_file():
        return [path]
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    return []


def _read_dataset(
    location: str, path: Path, saved: bool, data_files: Sequence[Path]
) -> Iterable[dict[str, Any]]:
    """The data set in the saved folder `path`, in data files, or at `location` on the Hub."""
    import datasets

    formats = sorted({LOADERS[file.suffix] for file in data_files})
    if len(formats) > 1:
        raise PluginError(
            f"{location}: holds data of several formats ({', '.join(formats)}); give one file"
        )
    try:
        if saved:
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
