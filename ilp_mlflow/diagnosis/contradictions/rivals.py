"""Other answers to a sample's question: the rows that give them, and how it is known that they do.

Rows ask the same question when their prompts do (`questions.Questions`), when they ask about one
thing in wordings that are answered alike (`wordings.Wordings`), or when the base answers both alike
(`base_answers`). Labels are told by the labels of similar prompts (`label_votes`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.matching import answer_key
from ilp_mlflow.diagnosis.contradictions.answers import Comparison, compare_answers

Ground = Literal[
    "equal prompts",
    "the same words",
    "other words, answered alike",
    "the base answers both alike",
    "the nearest rows",
]
"""How it is known that rows ask the same."""
EQUAL: Ground = "equal prompts"
WORDS: Ground = "the same words"
WORDINGS: Ground = "other words, answered alike"
BASE: Ground = "the base answers both alike"
VOTES: Ground = "the nearest rows"


# Compared by identity, as a key of mappings: samples hold values without a hash.
@dataclass(frozen=True, eq=False)
class Rival:
    """Another answer to what may be a sample's question."""

    sample: Sample
    """The sample."""
    rows: tuple[Sample, ...]
    """Those with the answer, those first that most surely ask the same."""
    agreeing: tuple[Sample, ...]
    """Others that ask the same, with the sample's answer."""
    same_question: float
    """Probability 0..1 that the rows ask what the sample asks."""
    ground: Ground
    """How that is known."""
    is_incompatible: bool = True
    """The words of the two answers tell that they say something else; if not, a judge must."""


class AskingRow(NamedTuple):
    """A row that may ask what a sample asks."""

    row: Sample
    same_question: float
    """Probability 0..1 that it does."""
    ground: Ground
    """How that is known."""


class GroupedRows(NamedTuple):
    """Rows by what they answer."""

    agreeing: list[AskingRow]
    """Those that say what the sample says, or merely more."""
    by_answer: dict[str, list[AskingRow]]
    """Those that say something else, by `answer_key`."""
    untold: dict[str, list[AskingRow]]
    """Those of which words do not tell whether they do, by `answer_key`."""


def find_rivals(
    sample: Sample, rows: Sequence[AskingRow], recurring: Mapping[str, int], least: float
) -> list[Rival]:
    """The other answers that `rows` give, those with most rows first.

    Only rows that ask the same with a probability of at least `least` are counted. `recurring`
    counts the rows of answers by `answer_key`.
    """
    certain = [row for row in rows if row.same_question >= least]
    certain.sort(key=lambda row: -row.same_question)
    grouped = group_by_answer(sample, certain, recurring)
    rivals = []
    for is_incompatible, by_answer in ((True, grouped.by_answer), (False, grouped.untold)):
        for asking in sorted(by_answer.values(), key=len, reverse=True):
            rival = Rival(
                sample=sample,
                rows=tuple(row.row for row in asking),
                agreeing=tuple(row.row for row in grouped.agreeing),
                same_question=asking[0].same_question,
                ground=asking[0].ground,
                is_incompatible=is_incompatible,
            )
            rivals.append(rival)
    return rivals


def group_by_answer(
    sample: Sample, rows: Sequence[AskingRow], recurring: Mapping[str, int]
) -> GroupedRows:
    """Rows by what they answer to the sample's question, in their order."""
    grouped = GroupedRows(agreeing=[], by_answer={}, untold={})
    compare = answer_comparison(sample, recurring)
    for asking in rows:
        said = compare(asking.row)
        if said == "same":
            grouped.agreeing.append(asking)
        else:
            by_answer = grouped.by_answer if said == "different" else grouped.untold
            by_answer.setdefault(answer_key(asking.row.answer), []).append(asking)
    return grouped


def answer_comparison(
    sample: Sample, recurring: Mapping[str, int]
) -> Callable[[Sample], Comparison]:
    """Compares answers of rows with the sample's; those in `recurring` are labels."""

    def compare(row: Sample) -> Comparison:
        return compare_answers(sample.answer, row.answer, sample.prompt, recurring)

    return compare
