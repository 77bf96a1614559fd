"""Notes on stderr, each said once."""

from __future__ import annotations

import os
import sys

from ilp_mlflow.core.terminal.progress import LAUNCHED_ENV, QUIET_ENV

_said = set[str]()


def say_once(note: str) -> None:
    """Print a line on stderr, unless this process has printed it before.

    Silent with QUIET_ENV or LAUNCHED_ENV in the environment.
    """
    if note in _said or os.environ.get(QUIET_ENV) or os.environ.get(LAUNCHED_ENV):
        return
    # a file is read more than once: its first rows before libraries are loaded, and then all
    _said.add(note)
    print(f"ilp: {note}", file=sys.stderr)
