import pytest

from tests.cli.commands import document, ilp
from tests.conftest import write_jsonl


@pytest.fixture
def told(store, tmp_path):
    """Diagnoses models of this folder by the command line.

    Takes rows and models by name, the base first; returns what became of the samples.
    """

    def diagnose(rows, *options, **models):
        checkpoints = [f"--checkpoint={name}={place}" for name, place in models.items()]
        data = rows if isinstance(rows, str) else write_jsonl(tmp_path / "rows.jsonl", rows)
        return document("diagnose", *checkpoints, "--data", data, *options)

    return diagnose


@pytest.fixture
def refused(store, tmp_path):
    """The one line with which a diagnosis is refused; it leaves no run."""
    import mlflow

    def diagnose(rows, *options, **models):
        checkpoints = [f"--checkpoint={name}={place}" for name, place in models.items()]
        data = write_jsonl(tmp_path / "rows.jsonl", rows)
        code, out, err = ilp("diagnose", *checkpoints, "--data", data, *options)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert mlflow.search_runs(search_all_experiments=True).empty
        return err

    return diagnose
