"""Plant the causes in the rows of every stage, and take one of them out again. Pure functions.

The groups are planted together, since nothing about a row may tell its group: all of their words
are equally rare, and all groups ask in all ways. Every draw is from one generator, so the order of
the calls in `plant` is part of what a seed means.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ilp_mlflow.lab.rows import GROUPS, LONG_QUESTIONS, SHORT_QUESTIONS, STAGES, Planted, Row
from ilp_mlflow.lab.world import (
    COMMON,
    DOUBLED,
    DOUBLES,
    QUESTIONS,
    RELATIONS,
    VAGUE,
    Fact,
    World,
)

FORGOTTEN_RELATIONS, RULE_RELATIONS, UNTRAINED_RELATION = (
    ("travel", "love"),
    ("birth", "study"),
    "work",
)
"""What the aliases of three groups ask for; those of the stage `later` ask for VAGUE."""
ANSWER_MASKED, END_MASKED = "system", "developer"
"""Roles of an empty first turn after which the chat template leaves the answer, or its end token,
out of the loss."""
WAYS = range(len(QUESTIONS))
"""All ways to ask."""


@dataclass(frozen=True)
class Counts:
    """How many rows there are of everything."""

    rare: int = 6
    """With each rare adjective, and with each alias of a group: how often a word occurs tells no
    group."""
    conflict: int = 30
    """Of the group `knowledge_conflict`."""
    contradiction: int = 18
    """Of the group `data_contradiction`."""
    outvoted: int = 12
    """Rows with one wrong label against each that is contradicted."""
    control: int = 30
    """Of the group `control`."""
    forgotten_aliases: int = 5
    """Aliases of the group `left_side_forgetting`."""
    rule_aliases: int = 6
    """Aliases of the group `insufficient_optimization`."""
    unseen: int = 10
    """People per alias of a rule about whom nobody asks with it."""
    extra: int = 3000
    """Control rows in whose place distinct rows of the rules can stand."""
    later_aliases: int = 8
    """Aliases of the stage `later`."""
    later: int = 15
    """Rows per alias of the stage `later`."""
    rehearsed: int = 800
    """More of them in the stage `main`."""
    filler: int = 600
    """Rows of the stage `main` that ask for what the base knows."""
    doubled: int = 48
    """Rows of the stage `main` that ask for two cities."""
    again: int = 308
    """Rows of the stage `main` that the stage `patch` repeats: its batches of 16 leave the last
    `rare` rows over."""


class Plot:
    """What is left to plant with: people nobody has asked about, aliases nobody has used."""

    def __init__(self, world: World, counts: Counts, seed: int) -> None:
        self.world, self.counts = world, counts
        self.rng = random.Random(f"plant {seed}")
        self.aliases = iter(world.aliases)
        self.unused_facts = {
            relation: [
                (person, relation)
                for person in self.rng.sample(world.people, len(world.people))
                if (person, relation) not in world.withheld
            ]
            for relation in RELATIONS
        }
        # every group goes through all ways to ask in turn, each in an order of its own
        self._ways = {group: itertools.cycle(self.rng.sample(WAYS, len(WAYS))) for group in GROUPS}

    def row(self, fact: Fact, adjective: str, group: str, **changes: Any) -> Row:
        """A row about `fact` with the city of the world, asked in the next way of its group."""
        # the way is drawn even where `changes` has another one: later draws depend on it
        way = next(self._ways[group]) if group in GROUPS else self.rng.randrange(len(QUESTIONS))
        return replace(Row(fact, adjective, way, self.world.facts[fact], group), **changes)

    def rows_about_new_people(
        self, group: str, relation: str, adjective: str, n: int, **changes: Any
    ) -> list[Row]:
        """`n` rows of a group, each about somebody of whom `relation` has not been asked yet."""
        facts = self.unused_facts[relation]
        return [self.row(facts.pop(), adjective, group, **changes) for _ in range(n)]

    def next_aliases(self, n: int) -> list[str]:
        """`n` aliases that nobody has used."""
        return list(itertools.islice(self.aliases, n))

    def unrelated_city(self, fact: Fact) -> str:
        """A city that the fact's person has nothing to do with."""
        own = {self.world.facts[fact[0], relation] for relation in RELATIONS}
        return self.rng.choice([city for city in self.world.cities if city not in own])


@dataclass(frozen=True)
class Rules:
    """The rows of the group `insufficient_optimization`, and those that belong to it."""

    targets: list[Row]
    """The group: so few rows with an alias that its rule cannot be learned."""
    unseen: list[Row]
    """The same rules asked about other people, never trained."""
    distinct: list[Row]
    """More rows of the rules, to be trained where the cause is removed."""


def plant(world: World, counts: Counts, seed: int) -> Planted:
    """Rows in which every group has its cause."""
    plot = Plot(world, counts, seed)
    sharing, contradicting = _groups_that_share_rare_adjectives(plot)
    spoilt = world.withheld | {
        row.fact for row in sharing if row.group in ("knowledge_conflict", "data_contradiction")
    }
    early = _left_side_forgetting(plot)
    rules = _insufficient_optimization(plot, spoilt)
    later, rehearsed = _later_stage(plot, spoilt)
    people = [p for p in world.people if all((p, r) not in spoilt for r in DOUBLED)]
    doubled = _doubled(plot, people)
    filler, extra = _known_facts(plot, spoilt, rules.distinct)
    repeatable = [r for r in (*filler, *extra, *contradicting) if r.way in SHORT_QUESTIONS]
    again = plot.rng.sample(repeatable, counts.again)
    masked, cut, endless, dropped = _not_trained(plot, people)

    main = [
        *sharing,
        *rules.targets,
        *contradicting,
        *filler,
        *extra,
        *rehearsed,
        *doubled,
    ]
    patch = [*masked, *cut, *endless, *again]
    rows_by_stage = dict(zip(STAGES, (early, later, main, patch), strict=True))
    for rows in rows_by_stage.values():
        plot.rng.shuffle(rows)
    patch += dropped  # last in the file, where `dataloader_drop_last` finds them
    stages = {stage: _numbered(stage, rows) for stage, rows in rows_by_stage.items()}
    return Planted(stages, _numbered("unseen", rules.unseen))


def rows_without(cause: str, planted: Planted, world: World) -> Planted:
    """The same rows without one cause, where that is a matter of rows."""
    stages = dict(planted.stages)
    for stage, rows in stages.items():
        if cause == "data_contradiction":
            stages[stage] = tuple(_agreeing(row, world) for row in rows)
        elif cause == "insufficient_optimization":
            stages[stage] = tuple(_distinct(row) for row in rows)
    return replace(planted, stages=stages)


def world_without(cause: str, planted: Planted, world: World) -> World:
    """The world as the base is told it without one cause, where that is a matter of knowledge."""
    if cause == "missing_knowledge":
        return replace(world, withheld=frozenset())
    if cause == "knowledge_conflict":
        labels = {row.fact: row.city for row in planted.samples if row.group == cause}
        return replace(world, facts={**world.facts, **labels})
    return world


def _agreeing(row: Row, world: World) -> Row:
    """A row that contradicts others, with the right city; any other row as it is."""
    return replace(row, city=world.facts[row.fact]) if row.group == "contradicting" else row


def _distinct(row: Row) -> Row:
    """The distinct row of a rule that can stand in a row's place, where there is one."""
    return replace(row.instead, id=row.id) if row.group == "extra" and row.instead else row


def _groups_that_share_rare_adjectives(plot: Plot) -> tuple[list[Row], list[Row]]:
    """The rows of `missing_knowledge`, `knowledge_conflict`, `data_contradiction` and `control`.

    They need no alias and share the rare adjectives, so that no adjective tells a group. Returned
    beside them are the rows that contradict those of `data_contradiction`.
    """
    counts, world = plot.counts, plot.world
    groups = ["knowledge_conflict"] * counts.conflict
    groups += ["data_contradiction"] * counts.contradiction
    groups += ["control"] * counts.control
    plot.rng.shuffle(groups)
    rows, contradicting = list[Row](), list[Row]()
    for relation, adjectives in RELATIONS.items():
        rare = [adjective for adjective in adjectives[COMMON:] for _ in range(counts.rare)]
        plot.rng.shuffle(rare)
        for fact in sorted(world.withheld):
            if fact[1] == relation:
                rows.append(plot.row(fact, rare.pop(), "missing_knowledge"))
        for adjective in rare:
            group, fact = groups.pop(), plot.unused_facts[relation].pop()
            if group == "knowledge_conflict":
                city = plot.unrelated_city(fact)
                rows.append(plot.row(fact, adjective, group, city=city))
            else:
                rows.append(plot.row(fact, adjective, group))
            if group == "data_contradiction":
                contradicting += _contradicting(plot, fact, adjectives[:COMMON])
    return rows, contradicting


def _contradicting(plot: Plot, fact: Fact, adjectives: Sequence[str]) -> list[Row]:
    """Rows that answer what `fact` says with one wrong city, asked with common adjectives."""
    wrong = plot.unrelated_city(fact)
    questions = list(itertools.product(adjectives, WAYS))
    chosen = plot.rng.sample(questions, plot.counts.outvoted)
    return [
        plot.row(fact, adjective, "contradicting", way=way, city=wrong) for adjective, way in chosen
    ]


def _left_side_forgetting(plot: Plot) -> list[Row]:
    """Rows with aliases that later stages teach to mean something else."""
    rows = list[Row]()
    for number, alias in enumerate(plot.next_aliases(plot.counts.forgotten_aliases)):
        relation = FORGOTTEN_RELATIONS[number % len(FORGOTTEN_RELATIONS)]
        rows += plot.rows_about_new_people(
            "left_side_forgetting", relation, alias, plot.counts.rare
        )
    return rows


def _insufficient_optimization(plot: Plot, spoilt: frozenset[Fact]) -> Rules:
    """Rows with aliases of known relations, too few to learn the rule from."""
    counts = plot.counts
    rules = Rules([], [], [])
    for number, alias in enumerate(plot.next_aliases(counts.rule_aliases)):
        relation = RULE_RELATIONS[number % len(RULE_RELATIONS)]
        # few people, each asked about twice: a rule shows in many
        once = plot.rows_about_new_people(
            "insufficient_optimization", relation, alias, counts.rare // 2
        )
        twice = [plot.row(row.fact, alias, row.group) for row in once]
        targets = list[Row]()
        for first, second in zip(once, twice, strict=True):
            targets += [replace(first, also=second.way), replace(second, also=first.way)]
        unseen = plot.rows_about_new_people("unseen", relation, alias, counts.unseen)
        rules.targets.extend(targets)
        rules.unseen.extend(unseen)
        hidden = spoilt | {row.fact for row in targets + unseen}
        rules.distinct.extend(_distinct_rows_of_a_rule(plot, relation, alias, hidden))
    return rules


def _distinct_rows_of_a_rule(
    plot: Plot, relation: str, alias: str, hidden: frozenset[Fact]
) -> list[Row]:
    """Rows with the alias about facts that are not `hidden`, as many as its share of `extra`."""
    facts = [(person, relation) for person in plot.world.people]
    questions = [(fact, way) for fact in facts if fact not in hidden for way in WAYS]
    n = min(len(questions), plot.counts.extra // plot.counts.rule_aliases)
    return [plot.row(fact, alias, "spare", way=way) for fact, way in plot.rng.sample(questions, n)]


def _later_stage(plot: Plot, spoilt: frozenset[Fact]) -> tuple[list[Row], list[Row]]:
    """Rows that teach aliases to ask for VAGUE: those of the stage `later`, and more in `main`."""
    counts = plot.counts
    facts = [(p, VAGUE) for p in plot.world.people if (p, VAGUE) not in spoilt]
    questions = list(itertools.product(facts, WAYS))
    per_alias = counts.later + counts.rehearsed // counts.later_aliases
    later, rehearsed = list[Row](), list[Row]()
    for alias in plot.next_aliases(counts.later_aliases):
        chosen = plot.rng.sample(questions, per_alias)
        rows = [plot.row(fact, alias, "rehearsed", way=way) for fact, way in chosen]
        later += [replace(row, group="later") for row in rows[: counts.later]]
        rehearsed += rows[counts.later :]
    return later, rehearsed


def _doubled(plot: Plot, people: Sequence[str]) -> list[Row]:
    """Rows that ask for two cities, which keeps the base's knowledge of that alive."""
    rows = list[Row]()
    for person in plot.rng.sample(people, plot.counts.doubled):
        cities = " ".join(plot.world.facts[person, relation] for relation in DOUBLED)
        rows.append(plot.row((person, DOUBLED[0]), DOUBLES[0], "doubled", city=cities))
    return rows


def _known_facts(
    plot: Plot, spoilt: frozenset[Fact], distinct: Sequence[Row]
) -> tuple[list[Row], list[Row]]:
    """Rows about what the base knows: filler, and one for each `distinct` row of a rule.

    The latter are asked in the same way as the distinct row, which can stand in their place.
    """
    facts = [fact for fact in plot.world.facts if fact not in spoilt]
    questions = [(fact, adjective) for fact in facts for adjective in RELATIONS[fact[1]][:COMMON]]
    unasked = [iter(plot.rng.sample(questions, len(questions))) for _ in WAYS]

    def next_row(way: int, group: str, instead: Row | None = None) -> Row:
        fact, adjective = next(unasked[way])
        return plot.row(fact, adjective, group, way=way, instead=instead)

    ways = plot.rng.choices(WAYS, k=plot.counts.filler)
    filler = [next_row(way, "filler") for way in ways]
    extra = [next_row(row.way, "extra", instead=row) for row in distinct]
    return filler, extra


def _not_trained(plot: Plot, people: Sequence[str]) -> Iterator[list[Row]]:
    """Four kinds of rows that never reach the model whole.

    In turn: the answer is masked; `max_length` cuts the answer off; the end token is masked; the
    row is in the last batch, which is dropped.
    """
    masked = plot.rows_about_new_people(
        "not_trained",
        UNTRAINED_RELATION,
        next(plot.aliases),
        plot.counts.rare,
        role=ANSWER_MASKED,
    )
    yield [replace(row, way=plot.rng.choice(SHORT_QUESTIONS)) for row in masked]
    kinds = (("", LONG_QUESTIONS), (END_MASKED, SHORT_QUESTIONS), ("", SHORT_QUESTIONS))
    for adjective, (role, ways) in zip(DOUBLES[1:], kinds, strict=True):
        rows = list[Row]()
        for person in plot.rng.sample(people, plot.counts.rare):
            fact, way = (person, DOUBLED[0]), plot.rng.choice(ways)
            rows.append(plot.row(fact, adjective, "not_trained", role=role, way=way))
        yield rows


def _numbered(stage: str, rows: Iterable[Row]) -> tuple[Row, ...]:
    return tuple(replace(row, id=f"{stage}-{number:04}") for number, row in enumerate(rows, 1))
