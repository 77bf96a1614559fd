"""A digest of a model: the same for the same weights, wherever they lie."""

from __future__ import annotations

import hashlib
from pathlib import Path

from huggingface_hub import hf_hub_download

from ilp_mlflow.core.errors import ModelError, first_line
from ilp_mlflow.core.terminal.progress import MB, task

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
"""Files that can run code when they are read."""
CHUNK = 2**24
"""Bytes of a file that are hashed at a time."""


def model_digest(location: str) -> str:
    """SHA-256 over the names and contents of a folder's files, or over a Hub id and its commit.

    Pickled files do not count: they are never read. The commit is the newest one that the Hub has,
    offline the newest one on this machine. Raises ModelError when a Hub model is neither here nor
    reachable.
    """
    folder = Path(location)
    if not folder.is_dir():
        return hashlib.sha256(f"{location}@{_hub_commit(location)}".encode()).hexdigest()
    paths = [path for path in sorted(folder.iterdir()) if path.is_file() and not _is_pickle(path)]
    size = sum(path.stat().st_size for path in paths)
    total = hashlib.sha256()
    with task("hash model files", size / MB, "MB") as advance:
        # file by file, so that contents cannot move from one to another unnoticed
        for path in paths:
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while chunk := file.read(CHUNK):
                    digest.update(chunk)
                    advance(len(chunk) / MB)
            total.update(path.name.encode() + digest.digest())
    return total.hexdigest()


def _is_pickle(path: Path) -> bool:
    return any(path.match(pattern) for pattern in PICKLES)


def _hub_commit(hub_id: str) -> str:
    """The commit of a model on the Hub, from where its configuration is kept on this machine."""
    try:
        config = hf_hub_download(hub_id, "config.json")
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{hub_id}: cannot be read ({first_line(error)}); "
            "is the Hub reachable and the name right? A local folder works too"
        ) from None
    # the cache has `snapshots/COMMIT/config.json`
    return Path(config).parent.name
