"""Easy facts of many kinds, each with several ways to ask for it: the package's `facts.yaml`."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

FILE = Path(__file__).with_name("facts.yaml")
"""Kinds with their wordings and facts."""
SYLLABLES = (
    *("ba", "do", "fen", "gra", "ki", "lu", "mor", "na", "pel", "qui", "ros", "sta"),
    *("tu", "vel", "wim", "yo", "zar", "bre", "col", "dri"),
)
ENDINGS = ("nd", "x", "rt", "lk", "ne", "sk", "m", "pt")
"""Of which invented subjects are made: two syllables and an ending."""
CAPITALISED = frozenset({"capital", "continent", "language", "currency"})
"""Kinds whose subjects are names."""


@dataclass(frozen=True)
class Kind:
    """One kind of question."""

    name: str
    """As in the file."""
    wordings: tuple[str, ...]
    """Ways to ask, with `{x}` for the subject."""
    answers: Mapping[str, str]
    """The right answer by subject."""


@dataclass(frozen=True)
class Fact:
    """A subject with its answer."""

    kind: Kind
    """What is asked."""
    subject: str
    """Of what."""
    answer: str
    """The answer; of an invented subject, or one given another answer, not the right one."""

    @property
    def wordings(self) -> tuple[str, ...]:
        """The questions, one for each wording of the kind."""
        return tuple(wording.format(x=self.subject) for wording in self.kind.wordings)

    def question(self, way: int) -> str:
        """The question in one wording (index into those of the kind)."""
        return self.kind.wordings[way].format(x=self.subject)


def kinds() -> dict[str, Kind]:
    """All kinds by name, in the order of the file."""
    document = yaml.safe_load(FILE.read_text("utf-8"))
    by_name = dict[str, Kind]()
    for name, fields in document.items():
        by_name[name] = Kind(name, tuple(fields["wordings"]), fields["facts"])
    return by_name


def facts() -> list[Fact]:
    """All facts, kind after kind."""
    found = list[Fact]()
    for kind in kinds().values():
        for subject, answer in kind.answers.items():
            found.append(Fact(kind, subject, answer))
    return found


def invented_subjects(kind: Kind, n: int, rng: random.Random, taken: set[str]) -> list[str]:
    """`n` subjects that do not exist, none of them in `taken`, which grows by them."""
    subjects = list[str]()
    while len(subjects) < n:
        name = rng.choice(SYLLABLES) + rng.choice(SYLLABLES) + rng.choice(ENDINGS)
        if name in taken:
            continue
        taken.add(name)
        subjects.append(name.capitalize() if kind.name in CAPITALISED else name)
    return subjects
