import io
import re
import sys
import time
from pathlib import Path

import pytest

from ilp_mlflow.core.terminal import progress
from ilp_mlflow.core.terminal.progress import task, track, track_size


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self):
        return True


def test_a_bar_shows_what_is_done_and_what_is_left_on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "SHOW_AFTER", 0)
    with task("mitigations", 2), task("score base", 4) as advance:
        advance(3)
        progress._shown.refresh()
    assert "mitigations" in terminal.getvalue()
    assert re.search(r"score base .*3/4  0:00:0\d, 0:00:0\d left", terminal.getvalue())


def test_a_step_that_does_not_last_is_not_shown(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with task("score base", 4) as advance:
        advance(3)
    assert "score base" not in terminal.getvalue()


@pytest.mark.parametrize("name", [progress.QUIET_ENV, progress.LAUNCHED_ENV])
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


def test_items_are_counted_as_they_come_out(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "SHOW_AFTER", 0)
    for number, _ in enumerate(track((i for i in range(4)), "tokenise", 4)):
        if number == 3:
            progress._shown.refresh()
    assert number == 3
    assert re.search(r"tokenise .*3/4  0:00:0\d, 0:00:0\d left", terminal.getvalue())


def test_a_folder_that_grows_shows_what_is_left(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "SHOW_AFTER", 0)
    monkeypatch.setattr(progress, "POLL_INTERVAL", 0.01)
    with track_size("store model", 8_000_000, lambda: progress.bytes_on_disk(tmp_path / "new")):
        (tmp_path / "new" / "below").mkdir(parents=True)
        (tmp_path / "new" / "below" / "a.safetensors").write_bytes(b"x" * 6_000_000)
        deadline = time.monotonic() + 30
        while not re.search(r"store model .*6/8 MB  0:00:0\d, 0:00:0\d left", terminal.getvalue()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert progress._shown is None
    assert progress.bytes_on_disk(tmp_path) == 6_000_000


@pytest.mark.skipif(
    not Path(progress.OPEN_FILES).is_dir(), reason="only Linux says how far a file is read"
)
def test_what_is_read_of_a_folder_is_known_while_files_are_open_and_afterwards(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"x" * 5_000)
    so_far = progress.bytes_read(tmp_path)
    assert so_far() == 0
    with (
        (tmp_path / "a").open("rb", buffering=0) as file,
        (tmp_path / "a").open("rb", buffering=0) as again,
    ):
        file.read(3_000)
        again.read(2_000)  # another part of it
        assert so_far() == 3_000
        with (tmp_path / "b").open("rb", buffering=0) as other:
            other.read(1_000)
            assert so_far() == 4_000
    assert so_far() == 10_000


@pytest.mark.parametrize(("columns", "shown"), [("60", "downloa"), ("80", "download models:/ver")])
def test_a_long_name_leaves_room_for_the_time_that_is_left(monkeypatch, columns, shown):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(progress, "SHOW_AFTER", 0)
    with task(f"download models:/{'very-' * 20}long/1", 100_000, "MB") as advance:
        advance(99_000)
        progress._shown.refresh()
    assert re.search(rf"{shown}.* 99000/100000 MB  0:00:0\d, 0:00:0\d left", terminal.getvalue())
