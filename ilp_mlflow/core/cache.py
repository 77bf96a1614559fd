"""What was computed or fetched, kept on disk by what it was made from, so that nothing is made twice and nothing is stale."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import platformdirs

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")
log = logging.getLogger(__name__)


def folder() -> Path:
    """Where this machine keeps what can be made again: `ilp_mlflow` in the user's cache folder."""
    return platformdirs.user_cache_path("ilp_mlflow", appauthor=False)


def read(key: Sequence[str]) -> pa.Table | None:
    """The table stored under `key`, or None."""
    import pyarrow.parquet as pq

    path = _path("scores", key, "parquet")
    return pq.read_table(path) if path.exists() else None


def write(key: Sequence[str], table: pa.Table) -> None:
    """Store `table` under `key`, if the folder can be written; a crash leaves no half-written file."""
    import pyarrow.parquet as pq

    path = _path("scores", key, "parquet")
    with best_effort():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            pq.write_table(table, f"{scratch}/table.parquet")
            os.replace(f"{scratch}/table.parquet", path)


@contextlib.contextmanager
def best_effort() -> Iterator[None]:
    """What is kept in here can be made again: that it cannot be written is told once, and all goes on without it."""
    try:
        yield
    except OSError as error:
        _tell(str(folder()), error.strerror or str(error))


@functools.cache
def _tell(where: str, why: str) -> None:
    log.warning(
        "%s cannot be written (%s): nothing is kept there for the next time; XDG_CACHE_HOME names another place",
        where,
        why,
    )


def cached(key: Sequence[str], make: Callable[[], T]) -> T:
    """What `make` gave when `key` was first asked for, as JSON holds it; when `make` raises, so does this, and nothing is kept."""
    path = _path("made", key, "json")
    if not path.exists():
        made = json.dumps(make())
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            Path(scratch, "made.json").write_text(made, encoding="utf-8")
            os.replace(f"{scratch}/made.json", path)
    return cast(T, json.loads(path.read_text(encoding="utf-8")))


def _path(kind: str, key: Sequence[str], suffix: str) -> Path:
    return folder() / kind / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()}.{suffix}"
