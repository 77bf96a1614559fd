"""What marks MLflow runs that others start while a run of ours is open: the plugin `mlflow.run_context_provider`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar

# MLflow imports this module while it is being imported itself: nothing of it can be imported here, not even to inherit from

_tags: ContextVar[Mapping[str, str] | None] = ContextVar("tags", default=None)


class RunContext:
    """Gives runs started inside a run of ours (by a plugin, a trainer's callback, autologging) its tags; no other run has any."""

    def in_context(self) -> bool:
        """Whether a run of ours is open in this thread."""
        return _tags.get() is not None

    def tags(self) -> dict[str, str]:
        """The tags of that run that hold for all inside."""
        return dict(_tags.get() or {})


@contextlib.contextmanager
def tag_foreign_runs(tags: Mapping[str, str]) -> Iterator[None]:
    """Every run that is started inside has these `tags`."""
    token = _tags.set(tags)
    try:
        yield
    finally:
        _tags.reset(token)
