"""Steps that schedules share when they draw the samples of their next round."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence

from ilp_mlflow.plugin import History


def round_rng(history: History) -> random.Random:
    """The random generator of the next round: the same history gives the same round."""
    return random.Random(f"{history.seed}/{len(history.rounds)}")


def count_visits(history: History) -> Counter[str]:
    """How often each sample was trained in the rounds so far, by id."""
    visits = Counter[str]()
    for done in history.rounds:
        for batch in done.batches:
            visits.update(batch)
    return visits


def draw_least_seen(
    ids: Sequence[str], n: int, visits: Mapping[str, int], rng: random.Random
) -> list[str]:
    """`n` of the ids, those with the fewest visits first, equals in random order.

    Where `n` is more than there are, they are taken again in the same order.
    """
    order = sorted(ids, key=lambda i: (visits[i], rng.random()))
    return [order[k % len(order)] for k in range(n)]
