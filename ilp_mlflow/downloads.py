"""What the Hub's library downloads, under a bar of ours."""

from __future__ import annotations

import contextlib
from typing import Any

from tqdm import tqdm

from ilp_mlflow.progress import task

MB = 1e6


class Download(tqdm):
    """What `huggingface_hub` takes for a bar of tqdm: bytes are shown by `progress.task`, in MB, anything else is not."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "disable": True})
        self.shown = contextlib.ExitStack()
        self.counts_bytes = options.get("unit") == "B"
        if self.counts_bytes:
            name = str(options.get("desc") or "").rpartition("/")[2]
            self.advance = self.shown.enter_context(task(f"download {name[:30]}, MB", 0))
            self.advance(self.n / MB, (self.total or 0) / MB)

    def update(self, n: float | None = 1) -> None:
        """Count `n` more, of `total`, which may have grown."""
        self.n += n or 0
        if self.counts_bytes:
            self.advance((n or 0) / MB, (self.total or 0) / MB)

    def close(self) -> None:
        """Take the bar away."""
        self.shown.close()
