import io
import re
import sys

import pytest

from ilp_mlflow import progress
from ilp_mlflow.progress import task


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self):
        return True


def test_a_bar_shows_what_is_done_and_what_is_left_on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "AFTER", 0)
    with task("mitigations", 2), task("score base", 4) as advance:
        advance(3)
        progress._shown.refresh()
    assert "mitigations" in terminal.getvalue()
    assert re.search(r"score base .*3/4  0:00:00, 0:00:00 left", terminal.getvalue())


def test_a_step_that_does_not_last_is_not_shown(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with task("score base", 4) as advance:
        advance(3)
    assert "score base" not in terminal.getvalue()


@pytest.mark.parametrize("name", [progress.QUIET, progress.LAUNCHED])
def test_it_is_silent_when_told(monkeypatch, name):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv(name, "1")
    with task("score base", 4) as advance:
        advance(3)
    assert terminal.getvalue() == ""


def test_it_is_silent_elsewhere(monkeypatch):
    monkeypatch.setattr(sys, "stderr", file := io.StringIO())
    with task("score base", 4) as advance:
        advance(3)
    assert file.getvalue() == ""
