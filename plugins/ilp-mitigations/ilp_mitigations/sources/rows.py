"""Records of a file, a folder or a data set, whatever its format."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ilp_mlflow.plugin import PluginError

PIECE = 1000
"""Characters of a text that is read as one document, at most."""


LOADERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
"""How `datasets` calls what a data file is, by suffix."""
TEXTS = (".txt", ".md")


def records(location: str) -> Iterator[dict[str, Any]]:
    """Records of a data file (JSONL, JSON, Parquet, CSV) or a text file, of a folder of either, of one that `datasets.save_to_disk`
    wrote, or of a data set on the Hub (`owner/name`).

    Of a text file each paragraph as `text`, long ones in pieces of PIECE characters. A paragraph ends at a blank line, or at any
    line end where there is none. A folder that has data files is read for those alone: other texts are about them. Raises
    PluginError when it cannot be read.
    """
    import datasets

    path = Path(location).expanduser()
    saved = path.is_dir() and any(
        (path / name).exists() for name in ("state.json", "dataset_dict.json")
    )
    files = (
        [path]
        if path.is_file()
        else sorted(p for p in path.rglob("*") if p.is_file())
        if path.is_dir() and not saved
        else []
    )
    data = [str(p) for p in files if p.suffix in LOADERS]
    texts = [p for p in files if p.suffix in TEXTS]
    formats = {LOADERS[Path(p).suffix] for p in data}
    if len(formats) > 1:
        raise PluginError(
            f"{location}: holds data of several formats ({', '.join(sorted(formats))}); give one file"
        )
    if texts and not data:
        yield from itertools.chain.from_iterable(map(_paragraphs, texts))
        return
    try:
        if saved:
            found = datasets.load_from_disk(str(path))
        elif data:
            found = datasets.load_dataset(formats.pop(), data_files=data, split="train")
        else:
            found = datasets.load_dataset(location, split="train")
    except Exception as error:  # each format has its own
        reason = (str(error).splitlines() or [""])[0]
        raise PluginError(
            f"{location}: cannot be read ({type(error).__name__}: {reason}); give a file, folder or Hub id"
        ) from None
    if isinstance(found, datasets.DatasetDict):
        raise PluginError(
            f"{location}: holds several splits ({', '.join(found)}); give the folder of one of them"
        )
    yield from found


def _paragraphs(file: Path) -> Iterator[dict[str, Any]]:
    try:
        whole = file.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise PluginError(f"{file}: not UTF-8; save the file as UTF-8") from None
    for paragraph in whole.split("\n\n" if "\n\n" in whole else "\n"):
        yield from (
            {"text": piece} for piece in textwrap.wrap(paragraph, PIECE, break_long_words=False)
        )
