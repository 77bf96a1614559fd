import pytest

from ilp_mlflow.core.interfaces import History, Round
from ilp_mlflow.training.schedules import SCHEDULES

IDS = [f"s{i}" for i in range(10)]


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_a_round_holds_every_sample_once_in_full_batches(name):
    batches = SCHEDULES[name].next_round(History(IDS, {}, batch_size=4, seed=0))
    assert sorted(i for b in batches for i in b) == sorted(IDS)
    assert [len(b) for b in batches] == [4, 4, 2]


def test_sequential_keeps_file_order_and_shuffled_depends_on_seed_round_and_ids_only():
    def order(name, ids=IDS, seed=0, rounds=0):
        return [
            i
            for b in SCHEDULES[name].next_round(
                History(ids, {}, 4, seed, [Round((), {}, {})] * rounds)
            )
            for i in b
        ]

    assert order("sequential", rounds=3) == IDS
    assert order("shuffled") == order("shuffled", ids=IDS[::-1])
    assert len({tuple(order("shuffled", seed=s, rounds=r)) for s in (0, 1) for r in (0, 1)}) == 4
