import pytest

from ilp_mlflow.lab.data_files import SIZES
from ilp_mlflow.lab.plant import plant
from ilp_mlflow.lab.world import make


@pytest.fixture(scope="session", params=["smoke", "full"])
def planted(request):
    """World, rows and counts of a size."""
    size, counts = SIZES[request.param]
    world = make(3, size)
    return world, plant(world, counts, 3), counts
