"""Records of a lab as JSON Lines in the cache."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ilp_mlflow.core import cache


def write(files: Mapping[str, Iterable[Mapping[str, Any]]], name: str) -> dict[str, Path]:
    """Write records as JSON Lines, by file name, in the cache folder `name`."""
    folder = cache.folder() / "lab" / name
    folder.mkdir(parents=True, exist_ok=True)
    paths = dict[str, Path]()
    for stem, records in files.items():
        path = folder / f"{stem}.jsonl"
        paths[path.name] = path
        text = "".join(json.dumps(fields) + "\n" for fields in records)
        # renamed when complete: another process may read the file of the same name meanwhile
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False, encoding="utf-8") as file:
            file.write(text)
        os.replace(file.name, path)
    return paths
