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
    doubled_cities,
    doubled_facts,
)

# no two groups share a relation: what one group learns of its aliases does not help another. None
# is VAGUE, which the base takes every alias to ask for and the stage `later` teaches
FORGOTTEN_RELATIONS = ("travel", "love")
"""What the aliases of `left_side_forgetting` ask for, in turn."""
RULE_RELATIONS = ("birth", "study")
"""What the aliases of `insufficient_optimization` ask for, in turn."""
UNTRAINED_RELATION = "work"
"""What the alias of `not_trained` asks for."""
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
        self.unused_facts = dict[str, list[Fact]]()
        for relation in RELATIONS:
            # another order for each relation: else the same people would be in all groups
            self.unused_facts[relation] = []
            for person in self.rng.sample(world.people, len(world.people)):
                if (person, relation) not in world.withheld:
                    self.unused_facts[relation].append((person, relation))
        # every group goes through all ways to ask in turn, each in an order of its own: none has
        # more long questions, or more of one wording, than another
        self._ways = dict[str, Iterator[int]]()
        for group in GROUPS:
            self._ways[group] = itertools.cycle(self.rng.sample(WAYS, len(WAYS)))

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
        # another of the person's own cities would be half right: the base links the two already
        person, _ = fact
        cities_of_person = {self.world.facts[person, relation] for relation in RELATIONS}
        unrelated = [city for city in self.world.cities if city not in cities_of_person]
        return self.rng.choice(unrelated)


@dataclass(frozen=True)
class Rules:
    """The rows of the group `insufficient_optimization`, and those that belong to it."""

    targets: list[Row]
    """The group: so few rows with an alias that its rule cannot be learned."""
    unseen: list[Row]
    """The same rules asked about other people, never trained."""
    distinct: list[Row]
    """More rows of the rules, to be trained where the cause is removed."""


@dataclass(frozen=True)
class Untrained:
    """The rows of the group `not_trained`, by what keeps them from the model."""

    answer_masked: list[Row]
    """The chat template leaves the answer out of the loss."""
    cut_off: list[Row]
    """The question is so long that `max_length` cuts the answer off."""
    end_masked: list[Row]
    """The chat template leaves the end token out of the loss."""
    dropped: list[Row]
    """In the last, incomplete batch, if they are last in the file."""


def plant(world: World, counts: Counts, seed: int) -> Planted[Row]:
    """Rows in which every group has its cause."""
    plot = Plot(world, counts, seed)
    sharing, contradicting = _groups_that_share_rare_adjectives(plot)
    # no other row may ask for these: what a group is about would be told, or disputed, elsewhere
    spoilt = world.withheld | _disputed_facts(sharing)
    early = _left_side_forgetting(plot)
    rules = _insufficient_optimization(plot, spoilt)
    later, rehearsed = _later_stage(plot, spoilt)
    people = [person for person in world.people if spoilt.isdisjoint(doubled_facts(person))]
    doubled = _doubled(plot, people)
    filler, extra = _known_facts(plot, spoilt, rules.distinct)
    again = _repeated_rows(plot, [*filler, *extra, *contradicting])
    untrained = _not_trained(plot, people)

    main = [*sharing, *rules.targets, *contradicting, *filler, *extra, *rehearsed, *doubled]
    patch = [*untrained.answer_masked, *untrained.cut_off, *untrained.end_masked, *again]
    # numbers are given after the shuffle: an id tells a row's place in the file, not its group
    for rows in (early, later, main, patch):
        plot.rng.shuffle(rows)
    # `patch` is trained in the order of the file, so its last rows are the last batch
    patch += untrained.dropped
    stages = dict[str, tuple[Row, ...]]()
    for stage, rows in zip(STAGES, (early, later, main, patch), strict=True):
        stages[stage] = _numbered(stage, rows)
    return Planted(stages, _numbered("unseen", rules.unseen))


def rows_without(cause: str, planted: Planted[Row], world: World) -> Planted[Row]:
    """The same rows without one cause, where that is a matter of rows."""
    # a row is changed where it stands: every other row keeps its place, its batch and its id
    stages = dict[str, tuple[Row, ...]]()
    for stage, rows in planted.stages.items():
        if cause == "data_contradiction":
            stages[stage] = tuple(_agreeing(row, world) for row in rows)
        elif cause == "insufficient_optimization":
            stages[stage] = tuple(_distinct(row) for row in rows)
        else:
            stages[stage] = rows
    return replace(planted, stages=stages)


def world_without(cause: str, planted: Planted[Row], world: World) -> World:
    """The world as the base is told it without one cause, where that is a matter of knowledge."""
    if cause == "missing_knowledge":
        return replace(world, withheld=frozenset())
    if cause == "knowledge_conflict":
        facts = dict(world.facts)
        for row in planted.samples:
            if row.group == cause:
                facts[row.fact] = row.city
        return replace(world, facts=facts)
    return world


def _agreeing(row: Row, world: World) -> Row:
    """A row that contradicts others, with the right city; any other row as it is."""
    if row.group == "contradicting":
        return replace(row, city=world.facts[row.fact])
    return row


def _distinct(row: Row) -> Row:
    """The distinct row of a rule that can stand in a row's place, where there is one."""
    # by its group: `patch` repeats some of these rows, and those change with them
    if row.group == "extra" and row.instead:
        return replace(row.instead, id=row.id)
    return row


def _groups_that_share_rare_adjectives(plot: Plot) -> tuple[list[Row], list[Row]]:
    """The rows of `missing_knowledge`, `knowledge_conflict`, `data_contradiction` and `control`.

    They need no alias and share the rare adjectives, so that no adjective tells a group. Returned
    beside them are the rows that contradict those of `data_contradiction`.
    """
    # the facts of `missing_knowledge` are given by the world; the other groups are dealt out over
    # the adjectives left. The counts must fit: 6 relations of 3 rare adjectives, `rare` rows each,
    # are as many rows as the four groups have
    groups = _groups_about_known_facts(plot)
    rows, contradicting = list[Row](), list[Row]()
    for relation, adjectives in RELATIONS.items():
        rare = _rare_adjectives(plot, relation)
        # sorted: a set of strings has another order in every process
        for fact in sorted(plot.world.withheld):
            if fact[1] == relation:
                rows.append(plot.row(fact, rare.pop(), "missing_knowledge"))
        for adjective in rare:
            group, fact = groups.pop(), plot.unused_facts[relation].pop()
            rows.append(_row_about_a_known_fact(plot, group, fact, adjective))
            if group == "data_contradiction":
                contradicting += _contradicting(plot, fact, adjectives[:COMMON])
    return rows, contradicting


def _groups_about_known_facts(plot: Plot) -> list[str]:
    """A group for each row that shares a rare adjective and is about a known fact, shuffled."""
    groups = ["knowledge_conflict"] * plot.counts.conflict
    groups += ["data_contradiction"] * plot.counts.contradiction
    groups += ["control"] * plot.counts.control
    plot.rng.shuffle(groups)
    return groups


def _rare_adjectives(plot: Plot, relation: str) -> list[str]:
    """The rare adjectives of a relation, each as often as it is asked with, shuffled."""
    adjectives = list[str]()
    for adjective in RELATIONS[relation][COMMON:]:
        adjectives += [adjective] * plot.counts.rare
    plot.rng.shuffle(adjectives)
    return adjectives


def _row_about_a_known_fact(plot: Plot, group: str, fact: Fact, adjective: str) -> Row:
    """A row of one of the groups about known facts; one of `knowledge_conflict` is mislabelled."""
    if group == "knowledge_conflict":
        return plot.row(fact, adjective, group, city=plot.unrelated_city(fact))
    return plot.row(fact, adjective, group)


def _disputed_facts(rows: Iterable[Row]) -> set[Fact]:
    """Facts for which some row has a wrong label."""
    disputed = set[Fact]()
    for row in rows:
        if row.group in ("knowledge_conflict", "data_contradiction"):
            disputed.add(row.fact)
    return disputed


def _contradicting(plot: Plot, fact: Fact, adjectives: Sequence[str]) -> list[Row]:
    """Rows that answer what `fact` says with one wrong city, asked with common adjectives."""
    wrong = plot.unrelated_city(fact)
    # common adjectives: a rare one would occur more often than others of its kind. No question is
    # drawn twice
    questions = list(itertools.product(adjectives, WAYS))
    rows = list[Row]()
    for adjective, way in plot.rng.sample(questions, plot.counts.outvoted):
        rows.append(plot.row(fact, adjective, "contradicting", way=way, city=wrong))
    return rows


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
        # few people, each asked about twice, so that the alias is as frequent as any rare
        # adjective: a rule shows in many people, not in many rows
        once = plot.rows_about_new_people(
            "insufficient_optimization", relation, alias, counts.rare // 2
        )
        twice = [plot.row(row.fact, alias, row.group) for row in once]
        # each knows the way of the other, which is no paraphrase: it is trained
        targets = list[Row]()
        for first, second in zip(once, twice, strict=True):
            targets += [replace(first, also=second.way), replace(second, also=first.way)]
        # drawn from the people nobody has asked about, too: only the rule can answer for them
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
    questions = _questions(plot.world, relation, hidden)
    n = min(len(questions), plot.counts.extra // plot.counts.rule_aliases)
    rows = list[Row]()
    for fact, way in plot.rng.sample(questions, n):
        rows.append(plot.row(fact, alias, "spare", way=way))
    return rows


def _questions(world: World, relation: str, hidden: frozenset[Fact]) -> list[tuple[Fact, int]]:
    """Every way to ask for every person's city of a relation, without the `hidden` facts."""
    # person by person: samples are drawn by position
    questions = list[tuple[Fact, int]]()
    for person in world.people:
        fact = (person, relation)
        if fact not in hidden:
            questions += [(fact, way) for way in WAYS]
    return questions


def _later_stage(plot: Plot, spoilt: frozenset[Fact]) -> tuple[list[Row], list[Row]]:
    """Rows that teach aliases to ask for VAGUE: those of the stage `later`, and more in `main`."""
    counts = plot.counts
    questions = _questions(plot.world, VAGUE, spoilt)
    per_alias = counts.later + counts.rehearsed // counts.later_aliases
    later, rehearsed = list[Row](), list[Row]()
    for alias in plot.next_aliases(counts.later_aliases):
        # these aliases are not those of `early`, which are overwritten by what is learned of
        # aliases at large; a contradiction of the same words would be another cause
        for number, (fact, way) in enumerate(plot.rng.sample(questions, per_alias)):
            if number < counts.later:
                later.append(plot.row(fact, alias, "later", way=way))
            else:
                rehearsed.append(plot.row(fact, alias, "rehearsed", way=way))
    return later, rehearsed


def _doubled(plot: Plot, people: Sequence[str]) -> list[Row]:
    """Rows that ask for two cities, which keeps the base's knowledge of that alive."""
    rows = list[Row]()
    for person in plot.rng.sample(people, plot.counts.doubled):
        cities = doubled_cities(plot.world, person)
        # with the first of DOUBLES only: the others are rare, each a kind of `not_trained`
        rows.append(plot.row((person, DOUBLED[0]), DOUBLES[0], "doubled", city=cities))
    return rows


def _known_facts(
    plot: Plot, spoilt: frozenset[Fact], distinct: Sequence[Row]
) -> tuple[list[Row], list[Row]]:
    """Rows about what the base knows: filler, and one for each `distinct` row of a rule.

    The latter are asked in the same way as the distinct row, which can stand in their place.
    """
    questions = list[tuple[Fact, str]]()
    for fact in plot.world.facts:
        if fact not in spoilt:
            _, relation = fact
            questions += [(fact, adjective) for adjective in RELATIONS[relation][:COMMON]]
    # for each way all questions in an order of its own: none is asked twice in the same words
    unasked = [iter(plot.rng.sample(questions, len(questions))) for _ in WAYS]

    def next_row(way: int, group: str, instead: Row | None = None) -> Row:
        fact, adjective = next(unasked[way])
        return plot.row(fact, adjective, group, way=way, instead=instead)

    ways = plot.rng.choices(WAYS, k=plot.counts.filler)
    filler = [next_row(way, "filler") for way in ways]
    extra = [next_row(row.way, "extra", instead=row) for row in distinct]
    return filler, extra


def _repeated_rows(plot: Plot, rows: Iterable[Row]) -> list[Row]:
    """Rows for the stage `patch` to repeat."""
    # batches of 16 leave the last `rare` rows of `patch` over only if the rest fill whole batches:
    # `again` is a multiple of 16 less the masked rows (2 * `rare`). Those that are cut off do not
    # count: without an answer they are left out before rows are put in batches. Short questions,
    # of which `max_length` cuts nothing off
    short = [row for row in rows if row.way in SHORT_QUESTIONS]
    return plot.rng.sample(short, plot.counts.again)


def _not_trained(plot: Plot, people: Sequence[str]) -> Untrained:
    """Four kinds of rows that never reach the model whole."""
    # where the answer is masked, an alias: the base takes it for VAGUE and does not know better. In
    # the others the base knows the answer, and what is to be learned is to end after it, since
    # DOUBLES ask for two cities: a mask on the end token alone is enough
    answer_masked = _rows_with_masked_answer(plot)
    _, cutting, masking, dropping = DOUBLES
    return Untrained(
        answer_masked=answer_masked,
        cut_off=_rows_to_stop_after_one_city(plot, people, cutting, LONG_QUESTIONS),
        end_masked=_rows_to_stop_after_one_city(
            plot, people, masking, SHORT_QUESTIONS, role=END_MASKED
        ),
        dropped=_rows_to_stop_after_one_city(plot, people, dropping, SHORT_QUESTIONS),
    )


def _rows_with_masked_answer(plot: Plot) -> list[Row]:
    """Rows with an alias, of which the end token is trained and the answer is not."""
    rows = plot.rows_about_new_people(
        "not_trained",
        UNTRAINED_RELATION,
        next(plot.aliases),
        plot.counts.rare,
        role=ANSWER_MASKED,
    )
    # short questions: of a long one `max_length` would cut off what is masked
    return [replace(row, way=plot.rng.choice(SHORT_QUESTIONS)) for row in rows]


def _rows_to_stop_after_one_city(
    plot: Plot, people: Sequence[str], adjective: str, ways: Sequence[int], **changes: Any
) -> list[Row]:
    """Rows with one of DOUBLES that answer with the first of the two cities only."""
    rows = list[Row]()
    for person in plot.rng.sample(people, plot.counts.rare):
        fact, way = (person, DOUBLED[0]), plot.rng.choice(ways)
        rows.append(plot.row(fact, adjective, "not_trained", way=way, **changes))
    return rows


def _numbered(stage: str, rows: Iterable[Row]) -> tuple[Row, ...]:
    return tuple(replace(row, id=f"{stage}-{number:04}") for number, row in enumerate(rows, 1))
