"""Records of a file, a folder or a data set, whatever its format."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ilp_mlflow import PluginError

PIECE = 1000
"""Characters of a text that is read as one document, at most."""


def records(location: str) -> Iterator[dict[str, Any]]:
    """Records of a JSONL or Parquet file, a folder that `datasets.save_to_disk` wrote or a data set on the Hub (`owner/name`).

    Of a text file, or of the text files of a folder, each paragraph as `text`, long ones in pieces of PIECE characters. A paragraph
    ends at a blank line, or at any line end where there is no blank line. Raises PluginError when there is none.
    """
    import datasets

    path = Path(location).expanduser()
    if path.is_dir() and not (path / "state.json").exists():
        files = sorted(p for p in path.rglob("*") if p.suffix in (".txt", ".md"))
    else:
        files = [path] if path.suffix in (".txt", ".md") and path.exists() else []
    if files:
        for file in files:
            whole = file.read_text(encoding="utf-8").strip()
            for paragraph in whole.split("\n\n" if "\n\n" in whole else "\n"):
                yield from ({"text": piece} for piece in textwrap.wrap(paragraph, PIECE, break_long_words=False))
        return
    loaders = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
    try:
        if path.is_dir():
            found = datasets.load_from_disk(str(path))
        elif path.suffix in loaders:
            found = datasets.load_dataset(loaders[path.suffix], data_files=str(path), split="train")
        else:
            found = datasets.load_dataset(location, split="train")
    except Exception as error:  # each format has its own
        reason = (str(error).splitlines() or [""])[0]
        raise PluginError(f"{location}: cannot be read ({type(error).__name__}: {reason}); give a file, folder or Hub id") from None
    yield from found
