"""Progress bars with the time that is left, on a terminal only."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress, Task

T = TypeVar("T")

SHOW_AFTER = 1.0
"""Seconds after which a step is shown."""
POLL_INTERVAL = 0.5
"""Seconds between two looks at bytes that move."""
SPEED_PERIOD = 300
"""Seconds of the past from which rich estimates the time that is left."""
MB = 1e6
"""Bytes of a megabyte."""
BAR_WIDTH = 12
"""Columns of the terminal for the bar."""
OPEN_FILES = "/proc/self/fd"
"""Folder in which Linux lists the files that this process has open."""
QUIET_ENV = "ILP_QUIET"
"""Environment variable that keeps a process silent because the user wants it so."""
LAUNCHED_ENV = "ILP_LAUNCHED"
"""Environment variable that keeps a process silent because its launcher has the terminal."""

_shown: Progress | None = None


@contextmanager
def task(
    description: str, total: float | None = None, unit: str = ""
) -> Iterator[Callable[..., None]]:
    """Show a bar for `total` units of work (None: unknown) until the block ends.

    Yields a function `advance(n, total=None)`: `n` more units are done, out of another total if one
    is given. `unit` is shown behind the numbers. Tasks inside the block are bars below this one.

    Silent when stderr is not a terminal, and with QUIET_ENV or LAUNCHED_ENV in the environment.
    """
    if not sys.stderr.isatty() or os.environ.get(QUIET_ENV) or os.environ.get(LAUNCHED_ENV):
        yield lambda n, total=None: None
        return
    with _display() as progress:
        bar = progress.add_task(description, total=total, unit=unit)
        try:
            yield lambda n, total=None: progress.update(bar, advance=n, total=total)
        finally:
            progress.remove_task(bar)


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """The items in turn, with a bar for them.

    `total` is the number of items, needed only for a bar over items that have no length.
    """
    if isinstance(items, Collection):
        total = len(items)
    with task(description, total) as advance:
        for item in items:
            yield item
            advance(1)


@contextmanager
def track_size(description: str, size: int, so_far: Callable[[], int]) -> Iterator[None]:
    """Show a bar for `size` bytes that the block moves through a library which reports nothing.

    `so_far` is asked from a second thread how many bytes have moved.
    """
    finished = threading.Event()

    def poll() -> None:
        before = 0
        while not finished.wait(POLL_INTERVAL):
            now = so_far()
            advance((now - before) / MB)
            before = now

    with task(description, size / MB, "MB") as advance:
        poller = threading.Thread(target=poll, daemon=True)
        poller.start()
        try:
            yield
        finally:
            finished.set()
            poller.join()


def bytes_read(folder: Path) -> Callable[[], int]:
    """A function that says how many bytes of a folder's files this process has read since.

    It always says 0 on systems without /proc.
    """
    read_by_path: dict[str, int] = {}

    def so_far() -> int:
        positions = _positions_in_open_files(folder)
        for path in read_by_path.keys() - positions.keys():
            # closed since the last look: it was read to its end
            read_by_path[path] = os.path.getsize(path)
        read_by_path.update(positions)
        return sum(read_by_path.values())

    return so_far


def _positions_in_open_files(folder: Path) -> dict[str, int]:
    """How far this process has read each file of a folder that it has open, bytes by path."""
    positions: dict[str, int] = {}
    if not os.path.isdir(OPEN_FILES):
        return positions
    for descriptor in os.listdir(OPEN_FILES):
        # a file may be closed between the listing and the look at it
        with suppress(OSError):
            path = os.readlink(f"{OPEN_FILES}/{descriptor}")
            if path.startswith(f"{folder.resolve()}{os.sep}"):
                # "pos: <bytes>" is the first line of the descriptor's entry in /proc/self/fdinfo
                info = Path(f"{OPEN_FILES}info/{descriptor}").read_text(encoding="utf-8")
                position = int(info.split()[1])
                # of two descriptors on one file, the one that is further counts
                positions[path] = max(positions.get(path, 0), position)
    return positions


def bytes_on_disk(folder: Path) -> int:
    """Bytes of all files below a folder, which need not exist yet."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            # a temporary file may be gone by now
            with suppress(FileNotFoundError):
                total += os.stat(os.path.join(parent, name)).st_size
    return total


@contextmanager
def _display() -> Iterator[Progress]:
    """The one display of this process: the outermost task starts it and ends it."""
    global _shown
    if _shown:
        yield _shown
        return
    with _new_display() as _shown:
        try:
            yield _shown
        finally:
            _shown = None


def _new_display() -> Progress:
    # rich takes a while to import, and most processes show no bar
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn
    from rich.table import Column
    from rich.text import Text

    class DelayedProgress(Progress):
        """Shows only the tasks that have lasted for a while."""

        def get_renderables(self) -> Iterator[Any]:
            lasting = [task for task in self.tasks if (task.elapsed or 0) >= SHOW_AFTER]
            yield self.make_tasks_table(lasting)

    class DescriptionColumn(ProgressColumn):
        """The task's name, cut where the bar and the times leave too little room."""

        def render(self, task: Task) -> Text:
            return Text(task.description, no_wrap=True, overflow="ellipsis")

    class TimesColumn(ProgressColumn):
        """How much is done, for how long the task has lasted, and for how long it will."""

        def render(self, task: Task) -> Text:
            return Text(_times(task))

    # rich shrinks columns that may wrap: with no_wrap on the others, only the description is cut
    return DelayedProgress(
        DescriptionColumn(),
        BarColumn(BAR_WIDTH, table_column=Column(no_wrap=True)),
        TimesColumn(Column(no_wrap=True)),
        console=Console(stderr=True),
        transient=True,
        speed_estimate_period=SPEED_PERIOD,
    )


def _times(task: Task) -> str:
    """Such as `3/8 MB  0:00:12, 0:00:20 left`, or the time so far where no total is known."""
    elapsed = task.elapsed or 0.0
    if task.total is None:
        return _clock(elapsed)
    unit = f" {task.fields['unit']}".rstrip()
    text = f"{task.completed:.0f}/{task.total:.0f}{unit}  {_clock(elapsed)}"
    seconds_left = _seconds_left(task, elapsed)
    return text if seconds_left is None else f"{text}, {_clock(seconds_left)} left"


def _seconds_left(task: Task, elapsed: float) -> float | None:
    """Estimated seconds until a task with a total is done; None before its first step."""
    if task.time_remaining is not None:
        return task.time_remaining
    if task.total is None or not task.completed:
        return None
    # rich says nothing after a single step, which may have taken half an hour
    return elapsed / task.completed * (task.total - task.completed)


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))
