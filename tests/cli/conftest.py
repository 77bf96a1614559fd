import mlflow
import pytest
from mlflow import MlflowClient

from tests.cli.commands import ilp


@pytest.fixture
def refused(store):
    """Checks that a command is refused in one line that holds a text, and leaves nothing behind."""

    def check(arguments, expected):
        code, out, err = ilp(*arguments)
        assert code == 2, err
        assert expected in err
        assert err.count("\n") == 1
        assert err.startswith("ilp: ")
        assert "Traceback" not in err
        assert out == ""
        client = MlflowClient(tracking_uri=store)
        runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
        assert not runs
        assert not client.search_model_versions()

    return check


@pytest.fixture
def no_store(tmp_path, monkeypatch):
    """Path of an MLflow database that commands are to use and that nobody has made."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(mlflow.tracking._tracking_service.utils, "_tracking_uri", None)
    return tmp_path / "mlflow.db"
