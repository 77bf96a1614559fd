"""A row of the lab's data files, and what is known about it. Pure values and functions."""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

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


class PlantedRow(Protocol):
    """A row of some lab, as its measures see it."""

    @property
    def id(self) -> str:
        """Stage and number."""

    @property
    def group(self) -> str:
        """One of GROUPS, or what the row is there for."""

    @property
    def prompt(self) -> str:
        """The question."""

    @property
    def answer(self) -> str:
        """The label."""

    @property
    def family(self) -> str:
        """What is asked for: the words of some families are in rows of one group only."""

    def paraphrases(self) -> Sequence[PlantedRow]:
        """The same question in other words, in which no row asks it."""

    def record(self, stage: str) -> dict[str, Any]:
        """The row as it stands in the data file of `stage`."""


AnyRow = TypeVar("AnyRow", bound=PlantedRow, covariant=True)


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

    @property
    def family(self) -> str:
        """What the rows of one group may share and no other has: the adjective."""
        return self.adjective

    @property
    def answer(self) -> str:
        """The label."""
        return self.city

    def record(self, stage: str) -> dict[str, Any]:
        """The row as it stands in the data file of `stage`; nothing in it tells its group."""
        fields: dict[str, Any] = {
            "id": self.id,
            "prompt": self.prompt,
            "completion": f" {self.city}",
            "probes": probes(self),
            # cut: a row that is asked in two ways has one fewer; their number must not tell that
            "paraphrases": [p.prompt for p in self.paraphrases()][:PARAPHRASES_PER_ROW],
        }
        # the one stage of conversations: only a chat template can leave parts of an answer out of
        # the loss, and the role of an empty first turn says which (see `base_model.CHAT_TEMPLATE`)
        if stage == "patch":
            opener = [{"role": self.role, "content": ""}] if self.role else []
            fields["prompt"] = [*opener, {"role": "user", "content": self.prompt}]
            fields["completion"] = [{"role": "assistant", "content": self.city}]
        return fields

    def paraphrases(self) -> list[Row]:
        """The same question in the other ways, which no row asks with this adjective."""
        reworded = list[Row]()
        for way in range(len(QUESTIONS)):
            if way not in (self.way, self.also):
                reworded.append(replace(self, way=way, id=f"{self.id}/{way}"))
        return reworded


@dataclass(frozen=True)
class Planted(Generic[AnyRow]):
    """The rows of an experiment, of one world or around one base."""

    stages: Mapping[str, tuple[AnyRow, ...]]
    """By stage, in the order of the file."""
    unseen: tuple[AnyRow, ...] = ()
    """Never trained: the rules of `insufficient_optimization`, asked about other people."""

    @property
    def samples(self) -> list[AnyRow]:
        """The rows that belong to a group."""
        return [row for row in self.rows if row.group in GROUPS]

    @property
    def rows(self) -> list[AnyRow]:
        """All rows that are trained, stage after stage."""
        return list(itertools.chain(*self.stages.values()))


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
