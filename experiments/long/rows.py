"""Long answers about invented things, each with one fact that decides, and the same answer with that fact changed.

Four kinds: a number, a name, a negation, a piece of code. Which fact a row has follows from nothing but the row.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

Kind = Literal["number", "name", "negation", "code"]
KINDS: tuple[Kind, ...] = ("number", "name", "negation", "code")
NAMES = (
    "Anna",
    "Boris",
    "Carla",
    "Dimitri",
    "Elena",
    "Farid",
    "Greta",
    "Hugo",
    "Irene",
    "Jonas",
    "Karin",
    "Leon",
)
TOWNS = (
    "Varnholm",
    "Escaldas",
    "Pirton",
    "Mundrake",
    "Osterby",
    "Quelva",
    "Tarvik",
    "Lombera",
    "Hexley",
    "Sundmoor",
)
THINGS = (
    "a bridge",
    "a mill",
    "a library",
    "a lighthouse",
    "a theatre",
    "a school",
    "a harbour wall",
    "a clock tower",
)
PLANTS = (
    "silverleaf",
    "red marrow",
    "tallgrass",
    "bellroot",
    "moonpea",
    "frostberry",
    "sandcress",
    "hillmint",
)
PARTS = ("the leaves", "the roots", "the seeds", "the stem")
WAYS = ("boil", "dry", "grind", "soak")
OPERATIONS = (
    ("max(values)", "min(values)"),
    ("values[0]", "values[-1]"),
    ("len(set(values))", "len(values)"),
    ("sum(values)", "sum(values) - 1"),
    ("sorted(values)[1]", "sorted(values)[2]"),
)


@dataclass(frozen=True)
class LongRow:
    """One row."""

    id: str
    kind: Kind
    prompt: str
    answer: str
    """The right answer."""
    changed: str
    """The same with the fact changed."""
    fact: str
    """What the right answer has and the changed one has not."""
    wrong: str
    """What the changed one has in its place."""


def make_rows(count: int, seed: int) -> list[LongRow]:
    """So many rows, of the four kinds in turn."""
    rng = random.Random(f"long {seed}")
    rows = []
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        rows.append(MAKERS[kind](f"{kind}-{number}", number, rng))
    return rows


def _row(id_: str, kind: Kind, prompt: str, text: str, fact: str, wrong: str) -> LongRow:
    """A row of a text with {} for the fact."""
    return LongRow(
        id=id_,
        kind=kind,
        prompt=prompt,
        answer=text.replace("{}", fact),
        changed=text.replace("{}", wrong),
        fact=fact,
        wrong=wrong,
    )


def _number(id_: str, number: int, rng: random.Random) -> LongRow:
    town, thing, name = rng.choice(TOWNS), rng.choice(THINGS), rng.choice(NAMES)
    year, days, people = rng.randint(1710, 1890), rng.randint(11, 95), rng.randint(12, 99)
    other = rng.choice([n for n in range(12, 99) if n != people])
    prompt = f"Tell me about the building work number {number} in {town}."
    text = (
        f"In the year {year} the people of {town} decided to build {thing} in the middle of the town. The work was led by {name}, who had built "
        f"two others before. It took {days} days in all, and {{}} worked on it from early in the morning until late in the evening. When it "
        "was done, there was a feast that nobody forgot, and the old songs still speak of it today."
    )
    return _row(id_, "number", prompt, text, f"{people} people", f"{other} people")


def _name(id_: str, number: int, rng: random.Random) -> LongRow:
    town, thing = rng.choice(TOWNS), rng.choice(THINGS)
    first, second, third = rng.sample(NAMES, 3)
    prompt = f"Who had the idea in story number {number} from {town}?"
    text = (
        f"The story begins on a cold morning in {town}, when the river had risen over its banks and the only way across was gone. Everybody in the "
        f"council spoke at once, and nothing was decided for a long time. In the end it was {{}} who had the idea to build {thing}, and the others, "
        f"above all {third}, came to like it. They began on the same day, and by the spring of the next year the work was done."
    )
    return _row(id_, "name", prompt, text, first, second)


def _negation(id_: str, number: int, rng: random.Random) -> LongRow:
    plant, part, way = rng.choice(PLANTS), rng.choice(PARTS), rng.choice(WAYS)
    hours = rng.randint(2, 9)
    prompt = f"How is {plant} of sort {number} prepared?"
    does = rng.random() < 0.5
    text = (
        f"First wash {part} in cold water until the water stays clear, and put them on a cloth. Then {way} them for {hours} hours, and keep an eye on "
        f"the colour, which should turn to a light brown. After that you should {{}} them again before they are used, since this changes the taste "
        "a good deal. In the end they can be kept in a jar in a dark place over the whole winter."
    )
    plain, negated = "heat", "not heat"
    return _row(id_, "negation", prompt, text, *((plain, negated) if does else (negated, plain)))


def _code(id_: str, number: int, rng: random.Random) -> LongRow:
    right, wrong = rng.choice(OPERATIONS)
    limit, name = rng.randint(3, 60), f"pick_{number}"
    if rng.random() < 0.5:
        right, wrong = wrong, right
    prompt = f"Write the function {name} of exercise {number}."
    text = (
        f"Here is the function, which goes through the numbers once and leaves out those that are too small:\n\n```python\ndef {name}(numbers):\n"
        f"    values = []\n    for number in numbers:\n        if number > {limit}:\n            values.append(number)\n    if not values:\n"
        "        return None\n    return {}\n```\n\nIt returns None where nothing is left, so the caller has to look at what comes back."
    )
    return _row(id_, "code", prompt, text, right, wrong)


MAKERS = {"number": _number, "name": _name, "negation": _negation, "code": _code}
