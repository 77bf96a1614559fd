"""Tags for MLflow runs that others start while a run of ours is open.

MLflow finds this module by its entry point `mlflow.run_context_provider`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar

# MLflow imports this module while it is being imported itself: nothing of MLflow can be imported
# here, not even a base class

_tags: ContextVar[Mapping[str, str] | None] = ContextVar("tags", default=None)


class RunContext:
    """Gives runs that others start inside ours (plugins, callbacks, autologging) tags of ours.

    No other run gets any.
    """

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
