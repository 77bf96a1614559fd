import pytest

from tests.training import schedules


@pytest.fixture(autouse=True)
def forget():
    schedules.SEEN.clear()
