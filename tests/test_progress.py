import io
import sys

from ilp_mlflow.progress import task


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self):
        return True


def test_a_bar_shows_what_is_done_and_what_is_left_on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with task("score base", 4) as advance:
        advance(3)
    assert "score base" in terminal.getvalue()
    assert "left" in terminal.getvalue()


def test_it_is_silent_elsewhere(monkeypatch):
    monkeypatch.setattr(sys, "stderr", file := io.StringIO())
    with task("score base", 4) as advance:
        advance(3)
    assert file.getvalue() == ""
