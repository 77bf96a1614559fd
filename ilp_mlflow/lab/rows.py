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
        # cut: a row that is asked in two ways has one fewer, and their number must not tell that
        "paraphrases": [p.prompt for p in paraphrases(row)][:PARAPHRASES_PER_ROW],
    }
    # the one stage of conversations: only a chat template can leave parts of an answer out of the
    # loss, and the role of an empty first turn says which (see `base_model.CHAT_TEMPLATE`)
    if stage == "patch":
        opener = [{"role": row.role, "content": ""}] if row.role else []
        fields["prompt"] = [*opener, {"role": "user", "content": row.prompt}]
        fields["completion"] = [{"role": "assistant", "content": row.city}]
    return fields


def probes(row: Row) -> list[dict[str, str]]:
    """What a model must know to learn a row: its fact in the base's own statements.

    The city is that of the row's label.
    """
    person, relation = row.fact
    # one city, also where the label is two: a statement tells one relation
    city = row.city.split()[0]
    records = list[dict[str, str]]()
    for statement in STATEMENTS[relation]:
        beginning, _, _ = statement.partition("{c}")
        prompt = beginning.format(p=person).strip()
        records.append({"prompt": prompt, "completion": f" {city}"})
    return records


def paraphrases(row: Row) -> list[Row]:
    """The same question in the other ways, which no row asks with this adjective."""
    reworded = list[Row]()
    for way in range(len(QUESTIONS)):
        if way not in (row.way, row.also):
            reworded.append(replace(row, way=way, id=f"{row.id}/{way}"))
    return reworded


def held_out_rows(world: World, prompts: Collection[str], n: int, seed: int) -> list[Row]:
    """`n` rows about what the base knows, with common adjectives and none of the `prompts`."""
    known_facts = [fact for fact in world.facts if fact not in world.withheld]
    # common adjectives only: the rare ones are the groups', and one more row would tell them apart
    questions = itertools.product(known_facts, range(COMMON), range(len(QUESTIONS)))
    unasked = list[Row]()
    for fact, number, way in questions:
        _, relation = fact
        row = Row(fact, RELATIONS[relation][number], way, world.facts[fact], "held out")
        if row.prompt not in prompts:
            unasked.append(row)
    # a generator of its own: how many are held out changes nothing of what is planted
    chosen = random.Random(f"held out {seed}").sample(unasked, n)
    return [replace(row, id=f"held-{number:04}") for number, row in enumerate(chosen, 1)]
