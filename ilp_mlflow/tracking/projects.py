"""Steps of an experiment as MLflow project runs, on any backend, in turn or side by side."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import mlflow
from mlflow import MlflowClient
from mlflow.entities import RunStatus
from mlflow.exceptions import MlflowException
from mlflow.projects.submitted_run import LocalSubmittedRun, SubmittedRun

from ilp_mlflow.core.errors import TrackingError, first_line
from ilp_mlflow.core.terminal.interrupts import defer_interrupts
from ilp_mlflow.core.terminal.progress import LAUNCHED_ENV, task
from ilp_mlflow.tracking import runs

STOP_TIMEOUT = 10.0
"""Seconds that an interrupted project run has to end by itself."""
CHILD_ENVIRONMENT = {LAUNCHED_ENV: "1", "MLFLOW_LOGGING_LEVEL": "WARNING"}
"""Variables for processes that are to keep silent but for errors."""


class ProjectResult(NamedTuple):
    """How a project run ended."""

    run_id: str
    """"" where it failed."""
    error: str
    """Why it failed, or ""."""


@dataclass(frozen=True)
class Launched:
    """A project run that was started as a child of the active run."""

    name: str
    """Of the run, for messages."""
    backend: str
    """Where it runs: `local`, or a backend plugin of MLflow."""
    submitted: SubmittedRun
    """MLflow's handle."""

    def wait(self) -> str:
        """Wait for its end and return its id; an interrupt meanwhile stops it.

        Raises TrackingError when it failed.
        """
        try:
            succeeded = self.submitted.wait()
        except KeyboardInterrupt:
            self.stop()
            raise
        if not succeeded:
            raise TrackingError(
                f"'{self.name}' as a project run on backend '{self.backend}': "
                f"run {self.submitted.run_id} failed"
            )
        return str(self.submitted.run_id)

    def stop(self) -> None:
        """Have it end and mark its MLflow run KILLED; from here, if it does not by itself."""
        with defer_interrupts():
            # it has a session of its own, so Ctrl-C does not reach it
            self.submitted.cancel()
            deadline = time.monotonic() + STOP_TIMEOUT
            while _is_alive(self.submitted) and time.monotonic() < deadline:
                time.sleep(0.1)
            client = MlflowClient()
            status = client.get_run(self.submitted.run_id).info.status
            if not RunStatus.is_terminated(RunStatus.from_string(status)):
                client.set_terminated(self.submitted.run_id, "KILLED")


def launch(
    entry_point: str,
    parameters: Mapping[str, str],
    name: str,
    backend: str,
    backend_config: Mapping[str, Any],
) -> Launched:
    """Start an entry point of the project in this folder, as a child of the active run.

    Raises TrackingError when the backend is unknown or does not take it.
    """
    active = mlflow.active_run()
    assert active is not None
    launched = None
    try:
        # an interrupt waits for the handle by which the run is stopped
        with defer_interrupts(), _silent_children():
            submitted = mlflow.projects.run(
                ".",
                entry_point=entry_point,
                parameters=dict(parameters),
                experiment_id=active.info.experiment_id,
                backend=backend,
                backend_config=dict(backend_config),
                env_manager="local" if backend == "local" else None,
                run_name=name,
                synchronous=False,
            )
            launched = Launched(name, backend, submitted)
    except MlflowException as error:
        raise TrackingError(
            f"'{name}' as a project run on backend '{backend}': {first_line(error)}"
        ) from None
    except KeyboardInterrupt:
        if launched:
            launched.stop()
        raise
    return launched


def launch_many(
    entry_point: str,
    parameters: Mapping[str, Mapping[str, str]],
    parent: str,
    backend: str,
    backend_config: Mapping[str, Any],
    jobs: int,
) -> dict[str, ProjectResult]:
    """Run an entry point once for each of the `parameters`, `jobs` at a time, as children of a run.

    Parameters and results are by name. One that fails, fails alone; an interrupt stops them all.
    """
    results: dict[str, ProjectResult] = {}
    running: dict[str, Launched] = {}

    def finish_first() -> None:
        name = next(iter(running))
        try:
            results[name] = ProjectResult(running.pop(name).wait(), "")
        except TrackingError as error:
            results[name] = ProjectResult("", str(error))
        advance(1)

    with (
        runs.start("", "experiment", run_id=parent),
        task(f"{entry_point}s, {jobs} at a time", len(parameters)) as advance,
    ):
        try:
            for name, values in parameters.items():
                # the first one started is waited for, whichever ends first
                if len(running) == jobs:
                    finish_first()
                try:
                    running[name] = launch(entry_point, values, name, backend, backend_config)
                except TrackingError as error:
                    results[name] = ProjectResult("", str(error))
            while running:
                finish_first()
        except KeyboardInterrupt:
            for launched in running.values():
                launched.stop()
            raise
    return results


def _is_alive(submitted: SubmittedRun) -> bool:
    """Whether a process of a local project run is left; MLflow waits for the first of them only."""
    if not isinstance(submitted, LocalSubmittedRun):
        return False
    try:
        # signal 0 only asks whether there is somebody to send a signal to
        os.killpg(submitted.command_proc.pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextlib.contextmanager
def _silent_children() -> Iterator[None]:
    """Processes that are started inside print errors only: the terminal is ours, results are in
    MLflow."""
    replaced = {name: os.environ.get(name) for name in CHILD_ENVIRONMENT}
    sys.stdout.flush()
    # children inherit the descriptor, not Python's sys.stdout
    stdout, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.environ.update(CHILD_ENVIRONMENT)
    try:
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        os.close(null)
        for name, value in replaced.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
