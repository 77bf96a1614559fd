"""Bars of other libraries, shown as ours: what the Hub's library downloads, what transformers loads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from tqdm import tqdm
from transformers.utils import logging

from ilp_mlflow.core.progress import MB, task, track


class Download(tqdm):
    """What `huggingface_hub` takes for a bar of tqdm: bytes are shown by `progress.task`, in MB, anything else is not."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "disable": True})
        self.shown = contextlib.ExitStack()
        self.counts_bytes = options.get("unit") == "B"
        if self.counts_bytes:
            name = str(options.get("desc") or "").rpartition("/")[2]
            self.advance = self.shown.enter_context(task(f"download {name}", 0, "MB"))
            self.advance(self.n / MB, (self.total or 0) / MB)

    def update(self, n: float | None = 1) -> None:
        """Count `n` more, of `total`, which may have grown."""
        self.n += n or 0
        if self.counts_bytes:
            self.advance((n or 0) / MB, (self.total or 0) / MB)

    def close(self) -> None:
        """Take the bar away."""
        self.shown.close()


@contextlib.contextmanager
def show_loading() -> Iterator[None]:
    """In here the weights that transformers loads are counted by a bar of ours in place of its own."""

    def shown(made: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if options.get("desc") != "Loading weights":
            return made(*args, **options)
        return track(args[0], "load weights")

    before = logging.set_tqdm_hook(shown)
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)
