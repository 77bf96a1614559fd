"""What is planted: the rows of every stage, the group of each, and the same rows with one cause removed. Pure functions."""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ilp_mlflow.lab.world import (
    COMMON,
    DOUBLED,
    DOUBLES,
    QUESTIONS,
    RELATIONS,
    STATEMENTS,
    VAGUE,
    Fact,
    World,
)

STAGES = ("early", "later", "main", "patch")
CAUSES = (
    "missing_knowledge",
    "knowledge_conflict",
    "data_contradiction",
    "left_side_forgetting",
    "insufficient_optimization",
    "not_trained",
)
GROUPS = ("control", *CAUSES)
FORGOTTEN, RULES, UNTRAINED = ("travel", "love"), ("birth", "study"), "work"
"""What the aliases of three groups ask for; those of the stage `later` ask for VAGUE."""
SHORT, LONG = range(6), range(6, len(QUESTIONS))
"""The ways to ask that fit into the `max_length` of the stage `patch`, and those that do not."""
WORDED = 6
"""Other ways to ask that a file gives of every row: of some, there are no more."""
ANSWER_MASKED, END_MASKED = "system", "developer"
"""Roles of an empty first turn after which the chat template leaves the answer, or its end token, out of the loss."""


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
class Counts:
    """How many rows there are of everything."""

    rare: int = 6
    """With each rare adjective, and with each alias of a group: how often a word occurs tells no group."""
    conflict: int = 30
    contradiction: int = 18
    outvoted: int = 12
    """Rows with one wrong label against each that is contradicted."""
    control: int = 30
    forgotten_aliases: int = 5
    rule_aliases: int = 6
    unseen: int = 10
    """People per alias of a rule about whom nobody asks with it."""
    extra: int = 3000
    """Control rows in whose place distinct rows of the rules can stand."""
    later_aliases: int = 8
    later: int = 15
    """Rows per alias of the stage `later`."""
    rehearsed: int = 800
    """More of them in the stage `main`."""
    filler: int = 600
    doubled: int = 48
    """Rows of the stage `main` that ask for two cities."""
    again: int = 308
    """Rows of the stage `main` that the stage `patch` repeats: its batches of 16 leave the last `rare` rows over."""


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
        return [row for rows in self.stages.values() for row in rows if row.group in GROUPS]


def plant(world: World, counts: Counts, seed: int) -> Planted:
    """Rows in which every group has its cause."""
    rng = random.Random(f"plant {seed}")
    aliases = iter(world.aliases)
    free = {
        r: [
            (p, r)
            for p in rng.sample(world.people, len(world.people))
            if (p, r) not in world.withheld
        ]
        for r in RELATIONS
    }
    ways = {
        group: itertools.cycle(rng.sample(range(len(QUESTIONS)), len(QUESTIONS)))
        for group in GROUPS
    }

    def row(fact: Fact, adjective: str, group: str, **more: Any) -> Row:
        way = next(ways[group]) if group in GROUPS else rng.randrange(len(QUESTIONS))
        return replace(Row(fact, adjective, way, world.facts[fact], group), **more)

    def stranger(fact: Fact) -> str:
        """A city that the person has nothing to do with."""
        return rng.choice(
            [c for c in world.cities if c not in {world.facts[fact[0], r] for r in RELATIONS}]
        )

    def taught(
        group: str, relation: str, alias: str, n: int = counts.rare, **more: Any
    ) -> list[Row]:
        return [row(free[relation].pop(), alias, group, **more) for _ in range(n)]

    main, contradicting = list[Row](), list[Row]()
    # rare adjectives are shared by the groups that need no alias
    groups = (
        ["knowledge_conflict"] * counts.conflict
        + ["data_contradiction"] * counts.contradiction
        + ["control"] * counts.control
    )
    rng.shuffle(groups)
    for relation, words in RELATIONS.items():
        rare = [a for a in words[COMMON:] for _ in range(counts.rare)]
        rng.shuffle(rare)
        main += [
            row(f, rare.pop(), "missing_knowledge")
            for f in sorted(world.withheld)
            if f[1] == relation
        ]
        for adjective in rare:
            group, fact = groups.pop(), free[relation].pop()
            main.append(
                row(
                    fact,
                    adjective,
                    group,
                    **({"city": stranger(fact)} if group == "knowledge_conflict" else {}),
                )
            )
            if group == "data_contradiction":
                wrong = stranger(fact)
                others = rng.sample(
                    list(itertools.product(words[:COMMON], range(len(QUESTIONS)))), counts.outvoted
                )
                contradicting += [
                    row(fact, a, "contradicting", way=w, city=wrong) for a, w in others
                ]
    spoilt = {
        r.fact for r in main if r.group in ("knowledge_conflict", "data_contradiction")
    } | world.withheld

    early = [
        r
        for number, alias in enumerate(itertools.islice(aliases, counts.forgotten_aliases))
        for r in taught("left_side_forgetting", FORGOTTEN[number % len(FORGOTTEN)], alias)
    ]
    unseen, spare = list[Row](), list[Row]()
    for number, alias in enumerate(itertools.islice(aliases, counts.rule_aliases)):
        relation = RULES[number % len(RULES)]
        once = taught("insufficient_optimization", relation, alias, counts.rare // 2)
        twice = [
            row(r.fact, alias, r.group) for r in once
        ]  # few people, asked about twice: a rule shows in many
        targets = [
            replace(a, also=b.way)
            for x, y in zip(once, twice, strict=True)
            for a, b in ((x, y), (y, x))
        ]
        asked = taught("unseen", relation, alias, counts.unseen)
        main, unseen = main + targets, unseen + asked
        hidden = {r.fact for r in targets + asked} | spoilt
        other = [
            ((p, relation), w)
            for p in world.people
            if (p, relation) not in hidden
            for w in range(len(QUESTIONS))
        ]
        n = min(len(other), counts.extra // counts.rule_aliases)
        spare += [row(f, alias, "spare", way=w) for f, w in rng.sample(other, n)]

    first = [(p, VAGUE) for p in world.people if (p, VAGUE) not in spoilt]
    by_alias = [
        [
            row(f, alias, "rehearsed", way=w)
            for f, w in rng.sample(list(itertools.product(first, range(len(QUESTIONS)))), n)
        ]
        for alias in itertools.islice(aliases, counts.later_aliases)
        for n in [counts.later + counts.rehearsed // counts.later_aliases]
    ]
    later = [replace(r, group="later") for rows in by_alias for r in rows[: counts.later]]
    rehearsed = [r for rows in by_alias for r in rows[counts.later :]]

    pairs = [p for p in world.people if all((p, r) not in spoilt for r in DOUBLED)]
    both = [
        row(
            (p, DOUBLED[0]),
            DOUBLES[0],
            "doubled",
            city=" ".join(world.facts[p, r] for r in DOUBLED),
        )
        for p in rng.sample(pairs, counts.doubled)
    ]
    common = [(f, a) for f in world.facts if f not in spoilt for a in RELATIONS[f[1]][:COMMON]]
    unasked = [iter(rng.sample(common, len(common))) for _ in QUESTIONS]
    filler = [
        row(*next(unasked[w]), "filler", way=w)
        for w in rng.choices(range(len(QUESTIONS)), k=counts.filler)
    ]
    extra = [row(*next(unasked[s.way]), "extra", way=s.way, instead=s) for s in spare]
    again = rng.sample(
        [r for r in (*filler, *extra, *contradicting) if r.way in SHORT], counts.again
    )

    masked = [
        replace(r, way=rng.choice(SHORT))
        for r in taught("not_trained", UNTRAINED, next(aliases), role=ANSWER_MASKED)
    ]
    cut, endless, dropped = (
        [
            row((p, DOUBLED[0]), double, "not_trained", role=role, way=rng.choice(fits))
            for p in rng.sample(pairs, counts.rare)
        ]
        for double, role, fits in zip(
            DOUBLES[1:], ("", END_MASKED, ""), (LONG, SHORT, SHORT), strict=True
        )
    )
    mixed = [
        early,
        later,
        [*main, *contradicting, *filler, *extra, *rehearsed, *both],
        [*masked, *cut, *endless, *again],
    ]
    for rows in mixed:
        rng.shuffle(rows)
    mixed[-1] += dropped
    stages = {stage: _numbered(stage, rows) for stage, rows in zip(STAGES, mixed, strict=True)}
    return Planted(stages, _numbered("unseen", unseen))


def removed(cause: str, planted: Planted, world: World) -> Planted:
    """The same rows without one cause, where that is a matter of rows."""
    if cause == "data_contradiction":
        return _changed(planted, "contradicting", lambda r: replace(r, city=world.facts[r.fact]))
    if cause == "insufficient_optimization":
        return _changed(planted, "extra", lambda r: replace(r.instead or r, id=r.id))
    return planted


def told_without(cause: str, planted: Planted, world: World) -> World:
    """The world as the base is told it without one cause, where that is a matter of what the base knows."""
    if cause == "missing_knowledge":
        return replace(world, withheld=frozenset())
    if cause == "knowledge_conflict":
        labels = {r.fact: r.city for r in planted.samples if r.group == cause}
        return replace(world, facts={**world.facts, **labels})
    return world


def record(row: Row, stage: str) -> dict[str, Any]:
    """A row as it stands in a data file; nothing in it tells its group."""
    prompt, completion = row.prompt, f" {row.city}"
    found: dict[str, Any] = {
        "id": row.id,
        "prompt": prompt,
        "completion": completion,
        "probes": probes(row),
    }
    found["paraphrases"] = [p.prompt for p in paraphrases(row)][:WORDED]
    if stage != "patch":
        return found
    opener = [{"role": row.role, "content": ""}] if row.role else []
    turns = [*opener, {"role": "user", "content": prompt}]
    return found | {"prompt": turns, "completion": [{"role": "assistant", "content": row.city}]}


def probes(row: Row) -> list[dict[str, str]]:
    """What a model must know to learn a row: its fact as the base's own statements have it, with the label's city."""
    person, relation = row.fact
    return [
        {
            "prompt": s.partition("{c}")[0].format(p=person).strip(),
            "completion": f" {row.city.split()[0]}",
        }
        for s in STATEMENTS[relation]
    ]


def unasked(world: World, given: Collection[str], n: int, seed: int) -> list[Row]:
    """`n` rows about what the base knows, with common adjectives, whose prompts are not among the `given`."""
    asked = itertools.product(
        (f for f in world.facts if f not in world.withheld), range(COMMON), range(len(QUESTIONS))
    )
    rows = [Row(f, RELATIONS[f[1]][a], way, world.facts[f], "held out") for f, a, way in asked]
    free = [r for r in rows if r.prompt not in given]
    return [
        replace(r, id=f"held-{k:04}")
        for k, r in enumerate(random.Random(f"held out {seed}").sample(free, n), 1)
    ]


def paraphrases(row: Row) -> list[Row]:
    """The same question in the other ways, which no row asks with this adjective."""
    return [
        replace(row, way=w, id=f"{row.id}/{w}")
        for w in range(len(QUESTIONS))
        if w not in (row.way, row.also)
    ]


def _numbered(stage: str, rows: Sequence[Row]) -> tuple[Row, ...]:
    return tuple(replace(r, id=f"{stage}-{n:04}") for n, r in enumerate(rows, 1))


def _changed(planted: Planted, group: str, change: Any) -> Planted:
    def rows(old: Iterable[Row]) -> tuple[Row, ...]:
        return tuple(change(r) if r.group == group else r for r in old)

    return replace(planted, stages={stage: rows(old) for stage, old in planted.stages.items()})
