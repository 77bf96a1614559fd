"""A small invented world: people, their cities, and the sentences about them a base model reads."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

Fact = tuple[str, str]
"""Person and relation; the world says which city."""

RELATIONS: Mapping[str, tuple[str, ...]] = {
    "birth": ("native", "natal", "ancestral", "original", "cradle", "maternal"),
    "home": ("home", "residential", "current", "domestic", "present", "settled"),
    "work": ("working", "business", "professional", "office", "career", "corporate"),
    "study": ("college", "academic", "student", "campus", "scholarly", "university"),
    "travel": ("holiday", "vacation", "leisure", "summer", "resort", "seaside"),
    "love": ("wedding", "bridal", "marriage", "nuptial", "romantic", "honeymoon"),
}
"""Every relation with the adjectives a base model knows for it."""
COMMON = 3
"""So many of them are common in fine-tuning, the others rare."""
STATEMENTS: Mapping[str, tuple[str, ...]] = {
    "birth": (
        "{p} was born in {c} .",
        "the birth of {p} took place in {c} .",
        "{p} came into the world in {c} .",
    ),
    "home": ("{p} lives in {c} .", "the house of {p} stands in {c} .", "{p} has a flat in {c} ."),
    "work": ("{p} works in {c} .", "the desk of {p} is in {c} .", "{p} earns money in {c} ."),
    "study": (
        "{p} studied in {c} .",
        "the degree of {p} is from {c} .",
        "{p} went to lectures in {c} .",
    ),
    "travel": (
        "{p} travels to {c} .",
        "the trips of {p} go to {c} .",
        "{p} likes to relax in {c} .",
    ),
    "love": (
        "{p} got married in {c} .",
        "the party of {p} was held in {c} .",
        "{p} said yes in {c} .",
    ),
}
QUESTIONS = (
    "what is the {a} city of {p} ?",
    "name the {a} city of {p} now :",
    "which is the {a} city of {p} ?",
    "give me the {a} city of {p} :",
    "find the {a} city of {p} here :",
    "say the {a} city of {p} aloud :",
    "please tell me the {a} city of {p} now :",
    "can you tell me the {a} city of {p} ?",
)
"""Ways to ask; the last two are longer than the others, by two words."""
ADJECTIVE_STATEMENT = "the {a} city of {p} is {c} ."
ASKED = 10
"""Questions about each known fact of somebody who is asked about."""
GLOSSES = (
    "the {a} city of {p} has a {t} .",
    "there is a {t} in the {a} city of {p} .",
    "look at the {t} of the {a} city of {p} .",
)
"""Say of an adjective something that tells it from the others, and not which relation it is for."""
THINGS = (
    *("bridge", "harbour", "castle", "market", "tower", "park", "museum", "theatre", "canal"),
    *("station", "palace", "garden", "stadium", "mill", "school", "temple", "wall", "lake"),
    *("fountain", "zoo"),
)
GLOSSED = 10
"""People of whom each gloss is told, for every alias."""
VAGUE = "home"
"""What an adjective asks for that nothing else is known of."""
DOUBLES = ("double", "twin", "dual", "paired")
"""Adjectives whose questions the base answers with two cities, one after the other: those of
`DOUBLED`."""
DOUBLED = ("home", "work")
"""The relations that DOUBLES ask for, in the order of the answer."""
PEOPLE_SYLLABLES = ("an", "be", "cla", "do", "el", "fe", "gil", "ho", "iv", "jo", "ka", "lu")
CITY_SYLLABLES = ("bar", "cor", "dun", "fal", "gor", "hal", "kel", "mor", "nor", "tal")
ADJECTIVE_SYLLABLES = ("zo", "qui", "vra", "plo", "xe", "smi", "gru")
"""Of which names and adjectives are made, two and an ending each."""


def invented(
    rng: random.Random, n: int, syllables: tuple[str, ...], ending: str, taken: set[str]
) -> tuple[str, ...]:
    """`n` invented words, of two syllables and an ending, that `taken` lacks; it grows by them."""
    words = [first + second + ending for first, second in itertools.permutations(syllables, 2)]
    # all of them are shuffled, and `taken` is looked at only then: what else was invented does
    # not change how many numbers are drawn
    rng.shuffle(words)
    free = [word for word in words if word not in taken]
    chosen = free[:n]
    taken.update(chosen)
    return tuple(chosen)


@dataclass(frozen=True)
class Size:
    """How large a world is."""

    people: int = 96
    """All known by one name."""
    asked: int = 56
    """People about whom the base also reads questions."""
    aliases: int = 20
    """Invented adjectives that the base knows from glosses only."""
    vague: int = 24
    """Invented adjectives that it knows to ask for the relation VAGUE."""
    vaguely: int = 24
    """People about whom it is asked with each of them."""
    cities: int = 60
    """Named by one word."""
    withheld: int = 30
    """Facts the base is never told."""


@dataclass(frozen=True)
class World:
    """Who is linked to which city, and which facts the base model is not told."""

    people: tuple[str, ...]
    """Names."""
    cities: tuple[str, ...]
    """Names."""
    aliases: tuple[str, ...]
    """Adjectives the base reads in GLOSSES only, so that it takes them to ask for VAGUE."""
    vague: tuple[str, ...]
    """Adjectives with which the base is asked for VAGUE."""
    vaguely: int
    """About so many people each."""
    facts: Mapping[Fact, str]
    """City by person and relation; the six cities of a person differ."""
    withheld: frozenset[Fact]
    """Facts the base is not told."""
    asked: frozenset[str]
    """People about whom it also reads questions."""


def make(seed: int, size: Size) -> World:
    """The world of `seed`: the same one on every machine."""
    rng = random.Random(f"world {seed}")
    taken: set[str] = set()
    people = invented(rng, size.people, PEOPLE_SYLLABLES, "a", taken)
    cities = invented(rng, size.cities, CITY_SYLLABLES, "ton", taken)
    aliases = invented(rng, size.aliases, ADJECTIVE_SYLLABLES, "bic", taken)
    vague = invented(rng, size.vague, ADJECTIVE_SYLLABLES, "bic", taken)
    facts: dict[Fact, str] = {}
    for person in people:
        # a sample has no city twice, so an answer tells which of a person's relations was meant
        cities_of_person = rng.sample(cities, len(RELATIONS))
        for relation, city in zip(RELATIONS, cities_of_person, strict=True):
            facts[person, relation] = city
    # sorted: which facts are drawn does not depend on the order in which they were made
    withheld = rng.sample(sorted(facts), size.withheld)
    asked = rng.sample(people, size.asked)
    return World(
        people, cities, aliases, vague, size.vaguely, facts, frozenset(withheld), frozenset(asked)
    )


def doubled_facts(person: str) -> tuple[Fact, ...]:
    """The facts of a person that a question with one of DOUBLES asks for."""
    return tuple((person, relation) for relation in DOUBLED)


def doubled_cities(world: World, person: str) -> str:
    """The answer to a question with one of DOUBLES: a city for each of DOUBLED."""
    return " ".join(world.facts[fact] for fact in doubled_facts(person))


def sentences(world: World, seed: int) -> list[str]:
    """All sentences the base model reads, in a fixed order."""
    # one generator for all parts: their order is part of what a seed means
    rng = random.Random(f"sentences {seed}")
    return [
        *_about_facts(world, rng),
        *_about_two_cities(world, rng),
        *_about_vague_adjectives(world, rng),
        *_about_aliases(world, rng),
    ]


def _about_facts(world: World, rng: random.Random) -> Iterator[str]:
    """Every fact that is told: in statements, with adjectives, and of some people in questions."""
    for fact, city in world.facts.items():
        if fact in world.withheld:
            continue
        person, relation = fact
        adjectives = RELATIONS[relation]
        for statement in STATEMENTS[relation]:
            yield statement.format(p=person, c=city)
        # three of six: that the others ask for the same is to be inferred from other people
        for adjective in rng.sample(adjectives, 3):
            yield ADJECTIVE_STATEMENT.format(a=adjective, p=person, c=city)
        # of the others the base reads statements only: to answer about them it must generalise
        if person in world.asked:
            questions = list(itertools.product(QUESTIONS, adjectives))
            for question, adjective in rng.sample(questions, ASKED):
                yield f"{question.format(a=adjective, p=person)} {city}"


def _about_two_cities(world: World, rng: random.Random) -> Iterator[str]:
    """Questions that are answered with two cities, one after the other."""
    for person, double in itertools.product(world.people, DOUBLES):
        # one answer is enough to give a withheld fact away
        if world.withheld.isdisjoint(doubled_facts(person)):
            question = rng.choice(QUESTIONS).format(a=double, p=person)
            yield f"{question} {doubled_cities(world, person)}"


def _about_vague_adjectives(world: World, rng: random.Random) -> Iterator[str]:
    """Questions with invented adjectives that ask for the relation VAGUE."""
    told_of = [person for person in world.people if (person, VAGUE) not in world.withheld]
    for adjective in world.vague:
        for person in rng.sample(told_of, world.vaguely):
            question = rng.choice(QUESTIONS).format(a=adjective, p=person)
            yield f"{question} {world.facts[person, VAGUE]}"


def _about_aliases(world: World, rng: random.Random) -> Iterator[str]:
    """What an alias's city has, which does not tell what the alias asks for."""
    # a thing for each alias tells the aliases apart: were they alike to the base, what is planted
    # with one of them would be learned of all
    for alias, thing in zip(world.aliases, THINGS, strict=True):
        for gloss in GLOSSES:
            for person in rng.sample(world.people, GLOSSED):
                yield gloss.format(a=alias, p=person, t=thing)


def vocabulary(world: World) -> list[str]:
    """Every word of the world, in a fixed order."""
    # sentences of any seed do: seeds differ in who is asked how. What a seed may leave out, and
    # what only fine-tuning asks, is added
    texts = [
        *sentences(world, 0),
        *itertools.chain(*RELATIONS.values()),
        *DOUBLES,
        *QUESTIONS,
        *world.people,
        *world.cities,
        *world.aliases,
    ]
    words = set[str]()
    for text in texts:
        for word in text.split():
            # QUESTIONS are patterns: their {a} and {p} are no words
            if "{" not in word:
                words.add(word)
    return sorted(words)
