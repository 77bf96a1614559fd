"""Score tables kept on disk by what they were computed from, so that nothing is computed twice and nothing is stale."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


def folder() -> Path:
    """Where this machine keeps what can be made again: `ilp_mlflow` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ilp_mlflow"


def read(key: Sequence[str]) -> pa.Table | None:
    """The table stored under `key`, or None."""
    import pyarrow.parquet as pq

    path = _path(key)
    return pq.read_table(path) if path.exists() else None


def write(key: Sequence[str], table: pa.Table) -> None:
    """Store `table` under `key`; a crash leaves no half-written file."""
    import pyarrow.parquet as pq

    path = _path(key)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        pq.write_table(table, f"{scratch}/table.parquet")
        os.replace(f"{scratch}/table.parquet", path)


def _path(key: Sequence[str]) -> Path:
    return folder() / "scores" / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()}.parquet"
