"""Things that do not exist: what a base says of them, it says without knowing anything."""

from __future__ import annotations

import random
from collections.abc import Sequence

MIN_ENTITIES = 4
"""Different entities from which others are made."""
MIN_LETTERS = 3
"""Letters of the shortest word that is made up."""
TRIES = 20
"""Attempts for each entity that is wanted."""


def made_up_entities(entities: Sequence[str], n: int, rng: random.Random) -> list[str]:
    """Up to `n` entities that begin like one of `entities` and end like another.

    Of names of several words it is words that are joined, else halves of words. None is one of
    `entities`. Numbers are left out: another number is a thing that does exist.
    """
    usable = sorted({entity for entity in entities if not any(map(str.isdigit, entity))})
    if len(usable) < MIN_ENTITIES:
        return []
    taken = {entity.casefold() for entity in usable}
    made: list[str] = []
    for _ in range(TRIES * n):
        if len(made) == n:
            break
        first, second = rng.sample(usable, 2)
        joined = _joined(first, second)
        if len(joined) >= MIN_LETTERS and joined.casefold() not in taken:
            taken.add(joined.casefold())
            made.append(joined)
    return made


def _joined(first: str, second: str) -> str:
    """The beginning of the one with the end of the other."""
    if " " in first and " " in second:
        return f"{first.split()[0]} {' '.join(second.split()[1:])}"
    beginning, end = first.split()[0], second.split()[-1]
    half = (len(beginning) + 1) // 2
    return beginning[:half] + end[len(end) // 2 :].lower()
