"""Checks that compare what a model says with the row's answer, as text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ilp_mlflow.data.matching import answer_key, contains_answer, option_label, without_label

SAID_LABEL = re.compile(
    r"\W*(?:(?:the\s+)?(?:correct\s+)?(?:answer|option|choice)(?:\s+is)?)?\W*"
    r"([A-Ja-j]|\d)(?:[.):\]]|\s*$|\s*\n)",
    re.IGNORECASE,
)
"""The label of an option at the beginning of what is said: `B`, `(b)`, `The answer is B.`"""
DENIED = re.compile(r"(?:\bnot|n['\u2019]t|\bneither|\bnor)\s+(?:\w+\s+)?$", re.IGNORECASE)
"""In front of an option that is not chosen."""
LETTERS = "abcdefghij"


def exact(completions: Sequence[str], answer: Sequence[str], **columns: Any) -> list[float | None]:
    """1 for the row's answer, white space aside."""
    pairs = zip(completions, answer, strict=True)
    return [float(said.split() == right.split()) for said, right in pairs]


def contains(
    completions: Sequence[str], answer: Sequence[str], **columns: Any
) -> list[float | None]:
    """1 where the row's answer is among what is said, however it is written."""
    pairs = zip(completions, answer, strict=True)
    return [float(contains_answer(said, right)) for said, right in pairs]


def choice(
    completions: Sequence[str],
    answer: Sequence[str],
    options: Sequence[Sequence[str] | None],
    **columns: Any,
) -> list[float | None]:
    """1 where the first option that is said, by its label or its text, is the row's answer.

    None for a row without options; what names none of them is wrong.
    """
    values: list[float | None] = []
    for said, right, of_row in zip(completions, answer, options, strict=True):
        if not of_row:
            values.append(None)
            continue
        # in the order in which the row has them, in which letters stand for them
        options_of_row = list(of_row) if right in of_row else [right, *of_row]
        chosen = _chosen(said, options_of_row)
        values.append(float(chosen is not None and answer_key(chosen) == answer_key(right)))
    return values


def _chosen(said: str, options: Sequence[str]) -> str | None:
    """The option that is said first; None for none of them."""
    for option in options:
        if answer_key(said) == answer_key(option):
            return option
    label = SAID_LABEL.match(said)
    if label:
        for place, option in enumerate(options):
            own_label = option_label(option) or (option.strip(" .()[]") if len(option) < 5 else "")
            if (own_label or LETTERS[place : place + 1]).lower() == label[1].lower():
                return option
    places = dict[str, tuple[int, int]]()
    for option in options:
        text = re.escape(without_label(option))
        for found in re.finditer(rf"(?<![\w-]){text}(?![\w-])", said, re.IGNORECASE):
            if not DENIED.search(said[: found.start()]):
                # of options that begin in one place the longest is said: `New York City`
                places.setdefault(option, (found.start(), -len(text)))
    return min(places, key=lambda option: places[option], default=None)


def rouge_l(
    completions: Sequence[str], answer: Sequence[str], **columns: Any
) -> list[float | None]:
    """ROUGE-L, 0..1: the longest common run of words in order, as F1 (Lin 2004, section 3.2).

    Raises ImportError without `rouge-score`.
    """
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(["rougeL"])
    pairs = zip(completions, answer, strict=True)
    return [float(scorer.score(right, said)["rougeL"].fmeasure) for said, right in pairs]
