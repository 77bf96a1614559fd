"""How commands end: exit codes, errors in one line, and the command that goes on after an interrupt."""

import errno
import sys
from types import SimpleNamespace

import click
import pytest

from ilp_mlflow.cli import app, main
from ilp_mlflow.core.errors import ConfigError, StepFailed, TrackingError


def caused(error, cause):
    error.__cause__ = cause
    return error


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("error", "exit_code", "message"),
    [
        (ConfigError("a\n  b"), 2, "a b"),
        (StepFailed("control failed", None), 3, "control failed"),
        (click.UsageError("No such option."), 2, "No such option; see 'ilp --help'"),
        (click.ClickException("wrong"), 2, "wrong"),
        (FULL, 2, app.DISK_FULL),
        (caused(TrackingError("MLflow does not answer"), FULL), 2, app.DISK_FULL),
        (
            PermissionError(errno.EACCES, "Permission denied", "/x"),
            2,
            "/x: Permission denied; make it writable, or choose another place",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_user_can_repair_is_one_line(error, exit_code, message, capsys):
    assert app._failure(error) == (exit_code, message)
    assert capsys.readouterr().err == ""


def test_a_fault_keeps_its_traceback(capsys):
    try:
        raise FileNotFoundError(errno.ENOENT, "No such file", "/x")
    except FileNotFoundError as error:
        failure = app._failure(error)
    assert failure.exit_code == 3
    assert "please report it" in failure.message
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("killed", "words", "expected"),
    [
        ([], ["run", "e.yaml"], "no run was open; to start again: {} run e.yaml"),
        (["a", "b"], ["run", "e.yaml", "--seed", ""],
         "run b is marked KILLED in MLflow; to go on: {} run e.yaml --run-id b"),
        (["b"], ["run", "e.yaml", "--run-id", "b"],
         "run b is marked KILLED in MLflow; to go on: {} run e.yaml --run-id b"),
        (["b"], ["stage", "e.yaml", "--stage", "s t"],
         "run b is marked KILLED in MLflow; to start again: {} stage e.yaml --stage 's t'"),
        (["b"], ["diagnose", "--checkpoint", "base=m"],
         "run b is marked KILLED in MLflow; to start again: {} diagnose --checkpoint base=m"),
        (["b"], ["lab"], "run b is marked KILLED in MLflow; to start again: {} lab"),
    ],
)  # fmt: skip
def test_an_interrupt_says_how_to_go_on(killed, words, expected, monkeypatch):
    monkeypatch.setitem(
        sys.modules, "ilp_mlflow.tracking.runs", SimpleNamespace(killed_runs=killed)
    )
    monkeypatch.setattr(sys, "argv", ["/usr/bin/pytest"])
    name = f"{sys.executable} -m ilp_mlflow"
    assert main._interrupted(words) == f"interrupted; {expected.format(name)}"


def test_the_command_is_named_as_it_was_called(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/opt/my env/ilp"])
    assert app._own_name() == "'/opt/my env/ilp'"
    monkeypatch.setattr(app.shutil, "which", lambda name: "/opt/my env/ilp")
    assert app._own_name() == "ilp"
