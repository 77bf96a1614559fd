import pytest

from ilp_mlflow.lab.files import SIZES
from ilp_mlflow.lab.plant import plant
from ilp_mlflow.lab.world import RELATIONS, make


@pytest.fixture(scope="session")
def leaning():
    """A base that takes every alias for the first relation most of the time, and for the others less and less."""
    shares = {r: 0.6 / 2**n for n, r in enumerate(RELATIONS)}
    return lambda world: {alias: {**shares, "birth": 0.9 - n / 100} for n, alias in enumerate(world.aliases)}


@pytest.fixture(scope="session", params=["smoke", "full"])
def planted(request, leaning):
    """World, rows and counts of a size."""
    size, counts = SIZES[request.param]
    world = make(3, size)
    return world, plant(world, leaning(world), counts, 3), counts
