"""Files that git-lfs has not fetched: in place of the content stands which content it is."""

from __future__ import annotations

from pathlib import Path

BEGINNING = b"version https://git-lfs.github.com/spec/"
"""What such a file begins with, see https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md."""
FAULT = (
    "a git-lfs pointer, not the file itself; run 'git lfs pull' in the repository, or download "
    "the file"
)
"""What is wrong with it, and what to do."""


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file only says which content git-lfs is to put there."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(BEGINNING)) == BEGINNING
