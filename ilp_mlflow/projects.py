"""Steps of an experiment as MLflow project runs of their own, on any backend, one after the other or side by side."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

from ilp_mlflow import tracking
from ilp_mlflow.errors import TrackingError, first_line


def launch(
    entry_point: str, parameters: Mapping[str, str], name: str, backend: str, backend_config: Mapping[str, Any]
) -> Callable[[], str]:
    """Start an entry point of the project in this folder as a child of the active run; what is returned waits for its end.

    That returns the child's id, and raises TrackingError when the backend is unknown or the run fails.
    """
    active = mlflow.active_run()
    assert active is not None
    try:
        with _stdout_aside():
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
    except MlflowException as error:
        raise TrackingError(f"'{name}' as a project run on backend '{backend}': {first_line(error)}") from None

    def wait() -> str:
        if not submitted.wait():
            raise TrackingError(f"'{name}' as a project run on backend '{backend}': run {submitted.run_id} failed")
        return str(submitted.run_id)

    return wait


def launch_many(
    entry_point: str,
    parameters: Mapping[str, Mapping[str, str]],
    name: str,
    parent: str,
    backend: str,
    backend_config: Mapping[str, Any],
    jobs: int,
) -> dict[str, tuple[str, str]]:
    """Run an entry point once for each of the `parameters` (by what stands in `name`), `jobs` at a time, as children of a run.

    Returned are each child's id, or "", and why it failed, or "".
    """
    found: dict[str, tuple[str, str]] = {}
    running: dict[str, Callable[[], str]] = {}

    def finish(one: str) -> None:
        try:
            found[one] = running.pop(one)(), ""
        except TrackingError as error:
            found[one] = "", str(error)

    with tracking.run("", "experiment", run_id=parent):
        for one, given in parameters.items():
            if len(running) == jobs:
                finish(next(iter(running)))
            try:
                running[one] = launch(entry_point, given, name.format(one), backend, backend_config)
            except TrackingError as error:
                found[one] = "", str(error)
        while running:
            finish(next(iter(running)))
    return found


@contextlib.contextmanager
def _stdout_aside() -> Iterator[None]:
    """What child processes print goes to stderr: stdout belongs to the result of this process."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
