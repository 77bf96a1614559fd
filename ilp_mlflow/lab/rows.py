"""A row of the lab's data files, and what is known about it. Pure values and functions."""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ilp_mlflow.lab.world import COMMON, QUESTIONS, RELATIONS, STATEMENTS, Fact, World

STAGES = ("early", "later", "main", "patch")
"""The stages that the rows are written for, in the order of training."""
CAUSES = (
    "missing_knowledge",
    "knowledge_conflict",
    "data_contradiction",
    "left_side_forgetting",
    "insufficient_optimization",
    "not_trained",
)
"""The causes that are planted."""
GROUPS = ("control", *CAUSES)
"""The planted groups of rows; nothing keeps those of `control` from being learned."""
SHORT_QUESTIONS, LONG_QUESTIONS = range(6), range(6, len(QUESTIONS))
"""The ways to ask that fit into the `max_length` of the stage `patch`, and those that do not."""
PARAPHRASES_PER_ROW = 6
"""Paraphrases that a file gives of every row; of some rows there are no more."""


@dataclass(frozen=True)
class Row:
    """One row of a data file, and what is known about it."""

    fact: Fact
    """Whose city is asked for, and which."""
    adjective: str
    """How the relation is called."""
    way: int
    """Index into QUESTIONS."""
    city: str
    """The label."""
    group: str
    """One of GROUPS, or what the row is there for."""
    role: str = ""
    """Role of an empty turn in front of the prompt."""
    id: str = ""
    """Stage and number."""
    also: int = -1
    """Another way in which a row asks the same, if one does."""
    instead: Row | None = None
    """The distinct row of a rule that can stand in its place."""

    @property
    def prompt(self) -> str:
        """The question."""
        return QUESTIONS[self.way].format(a=self.adjective, p=self.fact[0])


@dataclass(frozen=True)
class Planted:
    """The rows of an experiment."""

    stages: Mapping[str, tuple[Row, ...]]
    """By stage, in the order of the file."""
    unseen: tuple[Row, ...]
    """Never trained: the rules of `insufficient_optimization`, asked about other people."""

    @property
    def samples(self) -> list[Row]:
        """The rows that belong to a group."""
        return [row for row in self.rows if row.group in GROUPS]

    @property
    def rows(self) -> list[Row]:
        """All rows that are trained, stage after stage."""
        return list(itertools.chain(*self.stages.values()))


def record(row: Row, stage: str) -> dict[str, Any]:
    """A row as it stands in the data file of `stage`; nothing in it tells its group."""
    fields: dict[str, Any] = {
        "id": row.id,
        "prompt": row.prompt,
        "completion": f" {row.city}",
        "probes": probes(row),
        "paraphrases": [p.prompt for p in paraphrases(row)][:PARAPHRASES_PER_ROW],
    }
    if stage == "patch":  # the one stage of conversations
        opener = [{"role": row.role, "content": ""}] if row.role else []
        fields["prompt"] = [*opener, {"role": "user", "content": row.prompt}]
        fields["completion"] = [{"role": "assistant", "content": row.city}]
    return fields


def probes(row: Row) -> list[dict[str, str]]:
    """What a model must know to learn a row: its fact in the base's own statements.

    The city is that of the row's label.
    """
    person, relation = row.fact
    city = row.city.split()[0]
    return [
        {"prompt": statement.partition("{c}")[0].format(p=person).strip(), "completion": f" {city}"}
        for statement in STATEMENTS[relation]
    ]


def paraphrases(row: Row) -> list[Row]:
    """The same question in the other ways, which no row asks with this adjective."""
    others = [way for way in range(len(QUESTIONS)) if way not in (row.way, row.also)]
    return [replace(row, way=way, id=f"{row.id}/{way}") for way in others]


def held_out_rows(world: World, prompts: Collection[str], n: int, seed: int) -> list[Row]:
    """`n` rows about what the base knows, with common adjectives and none of the `prompts`."""
    known_facts = [fact for fact in world.facts if fact not in world.withheld]
    free = list[Row]()
    for fact, number, way in itertools.product(known_facts, range(COMMON), range(len(QUESTIONS))):
        row = Row(fact, RELATIONS[fact[1]][number], way, world.facts[fact], "held out")
        if row.prompt not in prompts:
            free.append(row)
    chosen = random.Random(f"held out {seed}").sample(free, n)
    return [replace(row, id=f"held-{number:04}") for number, row in enumerate(chosen, 1)]
