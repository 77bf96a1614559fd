"""Ctrl-C and SIGTERM in the middle of things: what is left in MLflow, and the command that goes on from there."""

import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from ilp_mlflow.scoring import scorer
from ilp_mlflow.scoring.speaking import probe
from ilp_mlflow.tracking import runs
from ilp_mlflow.training import preflight, stage
from tests.cli.commands import ilp
from tests.conftest import edit_yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _listening():
    """Ctrl-C counts, also in a test run that a shell put into the background and so made deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def interrupt(monkeypatch):
    """Has a signal come in the n-th call of a function."""
    monkeypatch.setattr(runs, "killed_runs", [])

    def at(owner, name, number=signal.SIGINT, calls=1):
        real, left = getattr(owner, name), [calls]

        def wrapped(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                signal.raise_signal(number)
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, wrapped)

    return at


def run_statuses():
    """Statuses of all runs but diagnoses, by name without number and parent, the newest first."""
    client = MlflowClient()
    found = client.search_runs(
        [e.experiment_id for e in client.search_experiments()], order_by=["start_time DESC"]
    )
    statuses = {}
    for run in found:
        if (
            run.data.tags.get("ilp.kind") != "diagnosis"
        ):  # one that MLflow has just made for a project has no tags of ours yet
            statuses.setdefault(run.info.run_name.split(" ")[0], []).append(run.info.status)
    return statuses


def versions():
    return sorted(
        (v.name, int(v.version), v.status) for v in MlflowClient().search_model_versions()
    )


def command(err):
    """The arguments of `ilp` in the command that goes on."""
    (line,) = err.strip().splitlines()
    assert line.startswith("ilp: interrupted; run ")
    words = shlex.split(line.partition("to go on: ")[2])
    assert words[:3] == [sys.executable, "-m", "ilp_mlflow"]
    return words[3:]


@pytest.mark.slow
def test_a_training_goes_on_behind_its_finished_stages(experiment_file, store, interrupt):
    interrupt(stage, "train_stage", calls=2)
    code, out, err = ilp("run", experiment_file, "--seed", "3")
    assert (code, out) == (130, "")
    assert run_statuses() == {"tiny": ["KILLED"], "first": ["FINISHED"], "second": ["KILLED"]}
    assert versions() == [("tiny", 1, "READY"), ("tiny.first", 1, "READY")]
    code, out, err = ilp(*command(err))
    assert code == 0, err
    assert "samples by status:" in out
    assert run_statuses() == {
        "tiny": ["FINISHED"],
        "first": ["FINISHED"],
        "second": ["FINISHED", "KILLED"],
    }
    assert versions() == [
        ("tiny", 1, "READY"),
        ("tiny.first", 1, "READY"),
        ("tiny.second", 1, "READY"),
    ]


@pytest.mark.slow
def test_what_is_others_now_is_trained_again_and_another_run_refused(
    experiment_file, store, interrupt
):
    interrupt(scorer, "score_tokens")
    _, _, err = ilp("run", experiment_file)
    *_, run_id = command(err)
    code, _, err = ilp("train", experiment_file, "--seed", "1", "--run-id", run_id)
    assert code == 2
    assert f"run {run_id} is of seed 0, this is 1; leave out --run-id" in err
    file = edit_yaml(experiment_file, tokenizer={"eos_token": "<|user|>"})
    assert ilp("train", file, "--run-id", run_id)[0] == 0
    assert run_statuses()["first"] == ["FINISHED", "FINISHED"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("owner", "name", "number"),
    [(scorer, "score_tokens", signal.SIGTERM), (probe.ModelProbe, "logprobs", signal.SIGINT)],
    ids=["scoring", "probing"],
)
def test_the_run_that_is_diagnosed_is_killed(
    owner, name, number, experiment_file, store, interrupt
):
    assert ilp("train", experiment_file)[0] == 0
    interrupt(owner, name, number)
    code, out, err = ilp("diagnose", experiment_file)
    assert (code, out) == (130, "")
    assert run_statuses() == {"tiny": ["KILLED"], "first": ["FINISHED"], "second": ["FINISHED"]}
    assert ilp(*command(err))[0] == 0
    assert run_statuses() == {"tiny": ["FINISHED"], "first": ["FINISHED"], "second": ["FINISHED"]}


@pytest.mark.long
def test_a_mitigation_is_killed_with_the_run_it_is_of(experiment_file, store, interrupt):
    interrupt(stage, "train_stage", calls=3)
    code, _, err = ilp("run", edit_yaml(experiment_file, mitigations=["control"]))
    assert code == 130
    assert run_statuses() == {
        "tiny": ["KILLED"],
        "first": ["FINISHED"],
        "second": ["FINISHED"],
        "control": ["KILLED"],
    }
    code, _, err = ilp(*command(err))
    assert code == 0, err
    assert [run_statuses()[name] for name in ("tiny", "first", "second")] == [["FINISHED"]] * 3
    assert run_statuses()["control"] == ["FINISHED", "KILLED"]


@pytest.mark.long
def test_an_interrupt_that_comes_while_something_is_deleted_is_not_lost(
    experiment_file, store, interrupt, monkeypatch
):
    class Deleted:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    def score(*args, **kwargs):
        del args
        Deleted()
        time.sleep(60)

    monkeypatch.setattr(scorer, "score_tokens", score)
    code, _, err = ilp("run", experiment_file)
    assert code == 130
    assert run_statuses()["tiny"] == ["KILLED"]
    assert command(err)


def test_an_interrupt_in_the_middle_of_a_write_does_not_lock_the_database(store, monkeypatch):
    import mlflow
    from sqlalchemy.engine.default import DefaultDialect

    execute, left = DefaultDialect.do_execute, [1]

    def interrupted(self, cursor, statement, *args):
        execute(self, cursor, statement, *args)
        # the metric is inserted and not yet committed, and a reading cursor is open
        if "FROM latest_metrics" in statement and left:
            left.clear()
            signal.raise_signal(signal.SIGINT)

    def work():
        with runs.start("one", "experiment") as run_id:
            runs.log(run_id, metrics={"loss": 1.0})
            monkeypatch.setattr(DefaultDialect, "do_execute", interrupted)
            runs.log(run_id, metrics={"loss": 2.0})

    mlflow.set_experiment("x")
    with pytest.raises(KeyboardInterrupt):
        work()
    assert not left
    assert run_statuses() == {"one": ["KILLED"]}


@pytest.mark.slow
def test_an_interrupt_behind_which_something_else_breaks_is_still_one(
    experiment_file, store, monkeypatch
):
    def train(*args, **kwargs):
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            # as a file does that is closed in the middle of a write
            raise RuntimeError("unexpected position")

    monkeypatch.setattr(runs, "killed_runs", [])
    monkeypatch.setattr(stage, "train_stage", train)
    code, _, err = ilp("run", experiment_file)
    assert code == 130
    assert run_statuses() == {"tiny": ["KILLED"], "first": ["KILLED"]}
    assert command(err)


def test_nothing_is_left_where_no_run_was_open(experiment_file, store, interrupt):
    interrupt(preflight, "_load_stages", signal.SIGTERM)
    code, _, err = ilp("train", experiment_file, "--model", "")
    told = f"ilp: interrupted; no run was open; to start again: {sys.executable} -m ilp_mlflow train {experiment_file}"
    assert (code, err.strip(), run_statuses()) == (130, told, {})


def test_an_interrupt_while_a_run_is_opened_waits_until_it_is_known(store, interrupt):
    import mlflow

    mlflow.set_experiment("x")
    interrupt(mlflow, "start_run")
    with pytest.raises(KeyboardInterrupt), runs.start("one", "experiment"):
        pass
    assert run_statuses() == {"one": ["KILLED"]}


@pytest.mark.slow
def test_ctrl_c_on_a_terminal(experiment_file, store):
    stages = {
        "training": {"num_train_epochs": 5000, "per_device_train_batch_size": 4, "bf16": False},
        "data": "first.jsonl",
    }
    edit_yaml(experiment_file, stages=[{"name": "first", **stages}])
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ |= {"TERM": "xterm-256color", "COLUMNS": "80"}
        os.execv(sys.executable, [sys.executable, "-m", "ilp_mlflow", "run", str(experiment_file)])
    shown = b""
    while b" left" not in shown.partition(b"train first")[2]:
        shown += os.read(terminal, 4096)
    os.write(terminal, b"\x03")
    while chunk := read(terminal):
        shown += chunk
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == 130, shown.decode()
    assert shown.decode().count("ilp: interrupted; run ") == 1
    assert run_statuses() == {"tiny": ["KILLED"], "first": ["KILLED"]}


def read(terminal):
    """What comes from a terminal; nothing when the other side is closed."""
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""


@pytest.mark.long
def test_stages_as_project_runs_end_with_their_parent(experiment_file, store, monkeypatch):
    for name in ("MLproject", "conda.yaml"):
        shutil.copy(ROOT / name, name)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    words = [
        sys.executable,
        "-m",
        "ilp_mlflow",
        "run",
        str(edit_yaml(experiment_file, launch="project")),
    ]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while "second" not in run_statuses():
            assert process.poll() is None
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert run_statuses() == {"tiny": ["KILLED"], "first": ["FINISHED"], "second": ["KILLED"]}
    code, out, err = ilp(*command(err))
    assert code == 0, err
    assert "samples by status:" in out
    assert run_statuses() == {
        "tiny": ["FINISHED"],
        "first": ["FINISHED"],
        "second": ["FINISHED", "KILLED"],
    }
