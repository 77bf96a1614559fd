"""Steps of an experiment as MLflow project runs of their own, on any backend, one after the other or side by side."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import RunStatus
from mlflow.exceptions import MlflowException
from mlflow.projects.submitted_run import LocalSubmittedRun, SubmittedRun

from ilp_mlflow.core.errors import TrackingError, first_line
from ilp_mlflow.core.interrupts import defer_interrupts
from ilp_mlflow.core.progress import LAUNCHED_ENV, task
from ilp_mlflow.tracking import runs

PATIENCE = 10.0
"""Seconds that an interrupted project run has to end by itself."""


@dataclass(frozen=True)
class Launched:
    """A project run that was started as a child of the active run."""

    name: str
    backend: str
    submitted: SubmittedRun

    def wait(self) -> str:
        """Wait for its end and return its id. Raises TrackingError when it failed; interrupted, it is stopped."""
        try:
            succeeded = self.submitted.wait()
        except KeyboardInterrupt:
            self.stop()
            raise
        if not succeeded:
            raise TrackingError(
                f"'{self.name}' as a project run on backend '{self.backend}': run {self.submitted.run_id} failed"
            )
        return str(self.submitted.run_id)

    def stop(self) -> None:
        """Have it end, and its MLflow run marked KILLED: by itself or, when it does not come to that, from here."""
        with defer_interrupts():
            self.submitted.cancel()  # it has a session of its own, so Ctrl-C does not reach it
            patience = time.monotonic() + PATIENCE
            while _alive(self.submitted) and time.monotonic() < patience:
                time.sleep(0.1)
            status = MlflowClient().get_run(self.submitted.run_id).info.status
            if not RunStatus.is_terminated(RunStatus.from_string(status)):
                MlflowClient().set_terminated(self.submitted.run_id, "KILLED")


def launch(
    entry_point: str,
    parameters: Mapping[str, str],
    name: str,
    backend: str,
    backend_config: Mapping[str, Any],
) -> Launched:
    """Start an entry point of the project in this folder. Raises TrackingError when the backend is unknown."""
    active = mlflow.active_run()
    assert active is not None
    launched = None
    try:
        with defer_interrupts(), _apart():
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
) -> dict[str, tuple[str, str]]:
    """Run an entry point once for each of the `parameters` (by name), `jobs` at a time, as children of a run.

    Returned are each child's id, or "", and why it failed, or "".
    """
    found: dict[str, tuple[str, str]] = {}
    running: dict[str, Launched] = {}

    def finish(one: str) -> None:
        try:
            found[one] = running.pop(one).wait(), ""
        except TrackingError as error:
            found[one] = "", str(error)
        advance(1)

    with (
        runs.start("", "experiment", run_id=parent),
        task(f"{entry_point}s, {jobs} at a time", len(parameters)) as advance,
    ):
        try:
            for one, given in parameters.items():
                if len(running) == jobs:
                    finish(next(iter(running)))
                try:
                    running[one] = launch(entry_point, given, one, backend, backend_config)
                except TrackingError as error:
                    found[one] = "", str(error)
            while running:
                finish(next(iter(running)))
        except KeyboardInterrupt:
            for other in running.values():
                other.stop()
            raise
    return found


def _alive(submitted: SubmittedRun) -> bool:
    """Whether a process of a local project run is still there; MLflow waits for the first of them only."""
    if not isinstance(submitted, LocalSubmittedRun):
        return False
    try:
        os.killpg(submitted.command_proc.pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """Processes started in here keep to their errors: results are in MLflow, and the terminal is ours."""
    given = {LAUNCHED_ENV: "1", "MLFLOW_LOGGING_LEVEL": "WARNING"}
    before = {name: os.environ.get(name) for name in given}
    sys.stdout.flush()
    kept, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nothing)
