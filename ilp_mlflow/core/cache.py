"""A cache on disk, in which every entry is found by what it was made from.

An entry is never out of date: other inputs give another key.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
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
    """Store `table` under `key`; where the folder cannot be written, warn once and go on."""
    import pyarrow.parquet as pq

    with best_effort(), _complete_file(_path("scores", key, "parquet")) as file:
        pq.write_table(table, file)


def cached(key: Sequence[str], make: Callable[[], T]) -> T:
    """What `make` returns, made once per `key` on this machine.

    It comes back as JSON holds it: tuples as lists, keys as texts. Where `make` raises, so does
    this, and nothing is stored.
    """
    path = _path("made", key, "json")
    if not path.exists():
        text = json.dumps(make())
        with _complete_file(path) as file:
            file.write_text(text, encoding="utf-8")
    return cast(T, json.loads(path.read_text(encoding="utf-8")))


@contextlib.contextmanager
def best_effort() -> Iterator[None]:
    """Let a write to the cache fail: on OSError warn once per process and go on without it."""
    try:
        yield
    except OSError as error:
        _warn_once(str(folder()), error.strerror or str(error))


@functools.cache
def _warn_once(where: str, why: str) -> None:
    log.warning(
        "%s cannot be written (%s): nothing is kept there for the next time; "
        "XDG_CACHE_HOME names another place",
        where,
        why,
    )


@contextlib.contextmanager
def _complete_file(path: Path) -> Iterator[Path]:
    """A file to write to that becomes `path` at the end of the block, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # in the same folder: within one file system, a file is replaced in one step
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        unfinished = Path(scratch, path.name)
        yield unfinished
        unfinished.replace(path)


def _path(kind: str, key: Sequence[str], suffix: str) -> Path:
    # as JSON, since ["a", "b"] and ["ab"] must not be the same key
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    return folder() / kind / f"{digest}.{suffix}"
