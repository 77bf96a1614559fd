import pytest

from ilp_mlflow.core.terminal import notes
from ilp_mlflow.core.terminal.progress import LAUNCHED_ENV, QUIET_ENV


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.setattr(notes, "_said", set())


def test_a_note_is_said_once_and_on_stderr(capsys):
    for note in ("a", "b", "a"):
        notes.say_once(note)
    said = capsys.readouterr()
    assert said.err == "ilp: a\nilp: b\n"
    assert said.out == ""


@pytest.mark.parametrize("variable", [QUIET_ENV, LAUNCHED_ENV])
def test_a_process_may_have_to_be_silent(capsys, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    notes.say_once("a")
    assert capsys.readouterr().err == ""
