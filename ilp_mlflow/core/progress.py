"""Progress bars with time left, on a terminal only."""

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

AFTER = 1.0
"""Seconds after which a step is shown."""
LOOK = 0.5
"""Seconds between two looks at bytes that move."""
MB = 1e6
"""Bytes."""
BAR = 12
"""Columns of a terminal for the bar."""
OPEN = "/proc/self/fd"
"""Where Linux says which files this process has open; how far each is read it says in fdinfo, beside."""
QUIET, LAUNCHED = "ILP_QUIET", "ILP_LAUNCHED"
"""Variables of the environment that keep a process silent: it was asked to be, or another process has the terminal."""

_shown: Progress | None = None


@contextmanager
def task(
    description: str, total: float | None = None, unit: str = ""
) -> Iterator[Callable[..., None]]:
    """A bar for `total` units of work (None: unknown); yields a function that advances it, and is told another total behind that.

    `unit` is shown behind the numbers where these do not count.

    Tasks inside it are bars below it.

    Silent when stderr is not a terminal, and with QUIET or LAUNCHED in the environment.
    """
    if not sys.stderr.isatty() or os.environ.get(QUIET) or os.environ.get(LAUNCHED):
        yield lambda n, total=None: None
        return
    with _display() as progress:
        bar = progress.add_task(description, total=total, unit=unit)
        try:
            yield lambda n, total=None: progress.update(bar, advance=n, total=total)
        finally:
            progress.remove_task(bar)


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """The items in turn, with a bar for them; `total` is their number, left out where they have a length."""
    with task(description, len(items) if isinstance(items, Collection) else total) as advance:
        for item in items:
            yield item
            advance(1)


@contextmanager
def track_size(description: str, size: int, so_far: Callable[[], int]) -> Iterator[None]:
    """A bar for what moves `size` bytes and tells nobody; `so_far` finds out how many it has."""
    done = threading.Event()

    def look() -> None:
        seen = 0
        while not done.wait(LOOK):
            now = so_far()
            advance((now - seen) / MB)
            seen = now

    with task(description, size / MB, "MB") as advance:
        looking = threading.Thread(target=look, daemon=True)
        looking.start()
        try:
            yield
        finally:
            done.set()
            looking.join()


def bytes_read(folder: Path) -> Callable[[], int]:
    """What tells how many bytes this process has read of a folder's files meanwhile; 0 on systems that do not say (no /proc)."""
    reached: dict[str, int] = {}

    def look() -> int:
        now: dict[str, int] = {}
        for number in os.listdir(OPEN) if os.path.isdir(OPEN) else ():
            with suppress(OSError):  # it was open a moment ago
                path = os.readlink(f"{OPEN}/{number}")
                if path.startswith(f"{folder.resolve()}{os.sep}"):
                    place = Path(f"{OPEN}info/{number}").read_text(encoding="utf-8").split()[1]
                    now[path] = max(now.get(path, 0), int(place))
        closed = {path: os.path.getsize(path) for path in reached.keys() - now.keys()}
        reached.update(closed | now)
        return sum(reached.values())

    return look


def bytes_on_disk(folder: Path) -> int:
    """Bytes of all files below a folder, which need not be there yet."""
    total = 0
    for inside, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # it was there a moment ago
                total += os.stat(os.path.join(inside, name)).st_size
    return total


@contextmanager
def _display() -> Iterator[Progress]:
    """The one display of this process, there as long as a task is."""
    global _shown
    if _shown:
        yield _shown
        return
    with _made() as _shown:
        try:
            yield _shown
        finally:
            _shown = None


def _made() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn
    from rich.table import Column
    from rich.text import Text

    class Lasting(Progress):
        """Shows tasks that last."""

        def get_renderables(self) -> Iterator[Any]:
            yield self.make_tasks_table(
                [task for task in self.tasks if (task.elapsed or 0) >= AFTER]
            )

    class Description(ProgressColumn):
        """What is done, cut where the bar and the times leave too little room."""

        def render(self, task: Task) -> Text:
            return Text(task.description, no_wrap=True, overflow="ellipsis")

    class Times(ProgressColumn):
        """How much is done, for how long it goes on, and for how long it will."""

        def render(self, task: Task) -> Text:
            return Text(_times(task))

    return Lasting(
        Description(),
        BarColumn(BAR, table_column=Column(no_wrap=True)),
        Times(Column(no_wrap=True)),
        console=Console(stderr=True),
        transient=True,
        speed_estimate_period=300,
    )


def _times(task: Task) -> str:
    took = task.elapsed or 0.0
    if task.total is None:
        return _clock(took)
    left = task.time_remaining
    if left is None and task.completed:
        left = took / task.completed * (task.total - task.completed)
    unit = f" {task.fields['unit']}".rstrip()
    return f"{task.completed:.0f}/{task.total:.0f}{unit}  {_clock(took)}" + (
        "" if left is None else f", {_clock(left)} left"
    )


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))
