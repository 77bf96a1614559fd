import pytest

from ilp_mlflow.core import config
from ilp_mlflow.lab import data_files as labs
from ilp_mlflow.lab.real import data_files, knowledge
from ilp_mlflow.lab.real.facts import facts, kinds
from ilp_mlflow.lab.real.plant import SIZES, plant


@pytest.fixture(scope="session", params=["real", "real-smoke"])
def planted(request):
    """Rows around a base that knows all facts, and their counts."""
    counts = SIZES[request.param]
    return plant(kinds(), facts(), counts, 3), counts


@pytest.fixture
def resolved(tiny_model, tmp_path, monkeypatch):
    """The real lab around a tiny base that is taken to know everything."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(knowledge, "known_facts", lambda model, asked: facts())
    experiment = config.read(data_files.EXPERIMENT, {"model": str(tiny_model), "seed": "3"})
    return labs.resolve(experiment)
