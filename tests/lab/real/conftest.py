import pytest

from ilp_mlflow.lab.real.facts import facts, kinds
from ilp_mlflow.lab.real.plant import SIZES, plant


@pytest.fixture(scope="session", params=["real", "real-smoke"])
def planted(request):
    """Rows around a base that knows all facts, and their counts."""
    counts = SIZES[request.param]
    return plant(kinds(), facts(), counts, 3), counts
