"""The orders in which a stage can see its samples."""

from __future__ import annotations

import random
from collections.abc import Sequence

from ilp_mlflow.core.interfaces import Batch, History, Schedule


class Sequential(Schedule):
    """Every round in file order."""

    def next_round(self, history: History) -> Sequence[Batch]:
        """All samples once, in file order."""
        return _batches(list(history.sample_ids), history.batch_size)


class Shuffled(Schedule):
    """Every round in a new order, which depends on the seed, the round and the ids alone."""

    def next_round(self, history: History) -> Sequence[Batch]:
        """All samples once, in random order."""
        # sorted first, so that the order of the file does not matter
        ids = sorted(history.sample_ids)
        random.Random(f"{history.seed}/{len(history.rounds)}").shuffle(ids)
        return _batches(ids, history.batch_size)


SCHEDULES: dict[str, Schedule] = {"sequential": Sequential(), "shuffled": Shuffled()}


def _batches(ids: list[str], size: int) -> list[Batch]:
    """The ids in batches of `size`; the last one may be smaller."""
    return [ids[i : i + size] for i in range(0, len(ids), size)]
