"""What a user is told once, in a line of its own, while the work goes on."""

from __future__ import annotations

import functools
import logging

log = logging.getLogger(__name__)


@functools.cache
def say_once(line: str) -> None:
    """Print a line on stderr, unless this process has said it; `--quiet` keeps it back."""
    log.warning("ilp: %s", line)
