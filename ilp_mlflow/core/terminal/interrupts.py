"""Ctrl-C and SIGTERM: both raise KeyboardInterrupt, and neither leaves half of something behind."""

from __future__ import annotations

import _thread
import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

RAISE_AGAIN_AFTER = 0.1
"""Seconds after which an interrupt that Python dropped is raised again."""


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt in the block, as Ctrl-C does, and let neither get lost.

    Python drops an interrupt that comes while an object is deleted; here it is raised again.
    """
    previous_handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
    previous_hook = sys.unraisablehook

    def raise_again(dropped: sys.UnraisableHookArgs) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            previous_hook(dropped)
            return
        # from a timer: raised in this call, inside the same deletion, it would be dropped once more
        threading.Timer(RAISE_AGAIN_AFTER, _thread.interrupt_main).start()

    sys.unraisablehook = raise_again
    try:
        yield
    finally:
        sys.unraisablehook = previous_hook
        signal.signal(signal.SIGTERM, previous_handler)


@contextlib.contextmanager
def defer_interrupts() -> Iterator[None]:
    """Defer SIGINT and SIGTERM until the block ends; a second one interrupts at once."""
    # Python handles signals in the main thread, and lets no other one set handlers
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def defer(number: int, frame: Any) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt

    previous_handlers = {
        number: signal.signal(number, defer) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)
    # not reached where the block raised: its own exception ends what goes on
    if received:
        signal.raise_signal(received[0])


def was_interrupted(error: BaseException | None) -> bool:
    """Whether an error is KeyboardInterrupt, or came up while one was on its way out.

    What an interrupt leaves half done may break what cleans up behind it: a file that is closed in
    the middle of a write raises an error of its own, which then hides the interrupt.
    """
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        # `raise ... from ...` names a cause; the error that was being handled is kept beside it
        error = error.__cause__ or error.__context__
    return False
