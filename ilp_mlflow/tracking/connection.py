"""Which MLflow store is used, whether it answers, and where a run is seen in its UI."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from ilp_mlflow.core.config import TrackingConfig
from ilp_mlflow.core.errors import TrackingError, first_line

# stdout belongs to --json, and bars are our own
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)

UNREACHABLE = ("Max retries exceeded", "failed with exception", "Connection refused")
"""What MLflow's errors say when its server cannot be reached."""
WHAT_TO_CHECK = "check that it is up, and tracking.uri or MLFLOW_TRACKING_URI"
"""What to do when a store does not answer."""
UI_ADDRESS = "http://127.0.0.1:5000"
"""Where `mlflow ui` serves a store that has no server."""


def use_store(config: TrackingConfig) -> None:
    """Point MLflow at the experiment's store, without asking it anything."""
    if config.uri:
        mlflow.set_tracking_uri(config.uri)


def connect(config: TrackingConfig, name: str) -> None:
    """Point MLflow at the experiment's store and choose the experiment in it, by default `name`.

    Raises TrackingError when the store does not answer.
    """
    use_store(config)
    # inside `mlflow run` the experiment is chosen already
    if "MLFLOW_RUN_ID" not in os.environ:
        with store_errors():
            mlflow.set_experiment(config.experiment or name)


def check_connection() -> None:
    """Raise TrackingError when MLflow does not answer."""
    with store_errors():
        MlflowClient().search_experiments(max_results=1)


def doctor() -> dict[str, str]:
    """The tracking URI and whether it answers."""
    try:
        check_connection()
    except TrackingError as error:
        return {"tracking": str(error)}
    return {"tracking": f"{mlflow.get_tracking_uri()} answers"}


@contextlib.contextmanager
def store_errors() -> Iterator[None]:
    """Turn whatever a store raises into a TrackingError that names the store."""
    try:
        yield
    except TrackingError:
        raise
    except MlflowException as error:
        raise TrackingError(_describe_refusal(error)) from None
    # each store has its own kinds of errors (SQLAlchemy, requests)
    except Exception as error:
        uri = mlflow.get_tracking_uri()
        if "migration" in str(error):
            raise TrackingError(
                f"MLflow at {uri} is being set up by another command at this moment; try again"
            ) from None
        raise TrackingError(
            f"MLflow at {uri} does not answer ({first_line(error)}); {WHAT_TO_CHECK}"
        ) from None


def _describe_refusal(error: MlflowException) -> str:
    """What is wrong when MLflow itself raises an error, and what to do."""
    uri = mlflow.get_tracking_uri()
    if "maintenance mode" in str(error):
        return (
            f"MLflow at {uri}: MLflow refuses plain files as a store; "
            "set tracking.uri to sqlite:///mlflow.db"
        )
    if any(sign in str(error) for sign in UNREACHABLE):
        return f"MLflow at {uri} does not answer; {WHAT_TO_CHECK}"
    return f"MLflow at {uri}: {first_line(error)}"


def run_url(run_id: str) -> str:
    """Address of a run's page in the MLflow UI, see `ui_command` for a store without a server."""
    return f"{_experiment_url(run_id)}/runs/{run_id}?workflowType=machine_learning"


def evaluation_url(run_id: str) -> str:
    """Address of a run in the GenAI evaluation view of the MLflow UI."""
    return f"{_experiment_url(run_id)}/runs/{run_id}/evaluations"


def _experiment_url(run_id: str) -> str:
    """Address of the page of a run's experiment."""
    uri = mlflow.get_tracking_uri()
    server = uri.rstrip("/") if uri.startswith("http") else UI_ADDRESS
    return f"{server}/#/experiments/{MlflowClient().get_run(run_id).info.experiment_id}"


def how_to_open(run_id: str) -> list[str]:
    """Lines that say how to see a run in the MLflow UI."""
    command = ui_command()
    if command is None:
        return [run_url(run_id)]
    return [f"open the MLflow UI:  {command}", f"then go to:  {run_url(run_id)}"]


def ui_command() -> str | None:
    """The command that opens the UI on this store, or None when a server is running already."""
    uri = mlflow.get_tracking_uri()
    return None if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}"
