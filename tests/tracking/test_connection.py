import logging

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from ilp_mlflow.core.config import TrackingConfig
from ilp_mlflow.core.errors import TrackingError
from ilp_mlflow.tracking import connection, runs


def test_the_store_of_the_experiment_is_used_and_else_the_one_that_is_set(store, tmp_path):
    connection.use_store(TrackingConfig())
    assert mlflow.get_tracking_uri() == store
    other = f"sqlite:///{tmp_path / 'other.db'}"
    connection.use_store(TrackingConfig(uri=other))
    assert mlflow.get_tracking_uri() == other
    assert not (tmp_path / "other.db").exists()


def experiment_of_a_new_run():
    with mlflow.start_run() as run:
        return mlflow.get_experiment(run.info.experiment_id).name


def test_the_experiment_is_the_one_of_the_settings_or_has_the_name_given(store):
    connection.connect(TrackingConfig(), "mine")
    assert experiment_of_a_new_run() == "mine"
    connection.connect(TrackingConfig(experiment="theirs"), "mine")
    assert experiment_of_a_new_run() == "theirs"


def test_inside_mlflow_run_the_experiment_stays(store, monkeypatch):
    connection.connect(TrackingConfig(), "mine")
    monkeypatch.setenv("MLFLOW_RUN_ID", "of the project")
    connection.connect(TrackingConfig(), "other")
    monkeypatch.delenv("MLFLOW_RUN_ID")
    assert experiment_of_a_new_run() == "mine"


def test_a_server_that_is_away_is_named(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    expected = "MLflow at http://127.0.0.1:9 does not answer; check that it is up"
    with pytest.raises(TrackingError, match=expected):
        connection.check_connection()
    assert expected in connection.doctor()["tracking"]


def test_a_store_that_is_there_answers(store):
    connection.check_connection()
    assert connection.doctor() == {"tracking": f"{store} answers"}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MlflowException("it is in maintenance mode"), "refuses plain files as a store"),
        (MlflowException("Connection refused"), "does not answer; check"),
        (MlflowException("no such thing\nand more"), r"sqlite:.*: no such thing$"),
        (OSError("pipe broke"), r"does not answer \(pipe broke\); check"),
        (RuntimeError("a migration is under way"), "is being set up by another command"),
        (TrackingError("known already"), "^known already$"),
    ],
)
def test_whatever_a_store_raises_is_a_tracking_error(store, error, expected):
    with pytest.raises(TrackingError, match=expected), connection.store_errors():
        raise error


def test_a_store_without_a_server_is_opened_by_a_command(store):
    connection.connect(TrackingConfig(), "x")
    with runs.start("x", "experiment") as run_id:
        pass
    page = f"http://127.0.0.1:5000/#/experiments/1/runs/{run_id}"
    assert connection.run_url(run_id) == f"{page}?workflowType=machine_learning"
    assert connection.evaluation_url(run_id) == f"{page}/evaluations"
    command = f"mlflow ui --backend-store-uri {store}"
    assert connection.ui_command() == command
    assert connection.how_to_open(run_id) == [
        f"open the MLflow UI:  {command}",
        f"then go to:  {connection.run_url(run_id)}",
    ]


def test_mlflow_keeps_quiet():
    assert not logging.getLogger("mlflow").isEnabledFor(logging.INFO)
