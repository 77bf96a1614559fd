"""Prompts that ask about one thing in other words, told by what the same words ask elsewhere.

`What is the capital of Zorvania?` and `Which city is the seat of Zorvania's government?` share
`Zorvania`. What is left of them are two *wordings*. They ask the same when what was learned of
other things in both is answered alike, or when a model that has learned rows in one wording gives
their answers in the other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from statistics import fmean
from typing import NamedTuple

from ilp_mlflow.core.interfaces import MIN_KNOWN_PROBABILITY, Context
from ilp_mlflow.core.texts import Text, last_turn, with_last_turn
from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.matching import answer_key, prompt_key, same_answer, with_answer
from ilp_mlflow.data.question_words import prompt_words
from ilp_mlflow.data.questions import Questions

MAX_SHARING = 64
"""Prompts that may have the word two prompts share; what more have is no thing to ask about."""
MAX_COMPARED = 8
"""Prompts that one prompt is compared with, those that share the rarest word first."""
MAX_PAIRS = 300
"""Pairs of wordings that models are asked about, at most."""
MAX_PROMPT_CHARACTERS = 400
"""Characters of the longest prompt that is taken apart."""
MAX_THING_WORDS = 8
"""Words of the longest thing that is put into a wording."""
MAX_THINGS = 6
"""Rows with one wording whose things are asked about in the other."""
MIN_THINGS = 3
"""Things with different answers, of both wordings together, from which it is told whether they ask
the same."""
MIN_ALIKE = 0.7
"""Share 0..1 of these things that must be answered alike: two that ask something else may have
some answers in common."""
NEGATIONS = frozenset(["not", "no", "never", "without", "except"])
"""Words that turn a question round."""
WORD = re.compile(r"\w+|[^\w\s]")


class Wording(NamedTuple):
    """What is left of a prompt without the thing it asks about."""

    before: str
    """What stands before the thing."""
    after: str
    """What stands after it."""

    def about(self, thing: str) -> str:
        """The prompt about a thing."""
        return self.before + thing + self.after


Pair = tuple[Wording, Wording]
"""Two wordings that may ask the same."""


class Reworded(NamedTuple):
    """A row asked in another wording."""

    row: Sample
    """The row."""
    prompt: Text
    """What it asks, in the other wording."""
    completion: Text
    """Its answer there."""


class Split(NamedTuple):
    """Two prompts, taken apart at what they share."""

    wording: Wording
    """Of the first."""
    other: Wording
    """Of the second."""
    thing: str
    """What both ask about."""


@dataclass(frozen=True)
class Wordings:
    """Tells whether rows ask the same in other words. Every two wordings are compared once."""

    rows: Sequence[Sample]
    """All rows."""
    questions: Questions
    """Their questions, by place."""
    context: Context
    """Whose models are asked."""
    _things: dict[Wording, dict[str, Sample]] = field(default_factory=dict)
    """Rows with a wording, by what they ask about."""

    def same_as(
        self, places: Sequence[int], rivals: Callable[[int, int], bool]
    ) -> dict[int, dict[int, float]]:
        """Probability 0..1 that other rows ask the same, by place and other place.

        Only pairs of rows that are `rivals`, by their places, are compared. Left out are those of
        which nothing tells it, or less than MIN_ALIKE.
        """
        splits = self._splits(places, rivals)
        examples: dict[Pair, tuple[int, int]] = {}
        for pair, split in splits.items():
            examples.setdefault((split.wording, split.other), pair)
        alike = self._compare(examples)
        found: dict[int, dict[int, float]] = {place: {} for place in places}
        for (place, other), split in splits.items():
            if alike.get((split.wording, split.other), 0.0) >= MIN_ALIKE:
                found[place][other] = alike[split.wording, split.other]
        return found

    def _splits(
        self, places: Sequence[int], rivals: Callable[[int, int], bool]
    ) -> dict[tuple[int, int], Split]:
        """Rivals that share a rare word, taken apart; the first of every row come first."""
        by_rank: list[dict[tuple[int, int], Split]] = [{} for _ in range(MAX_COMPARED)]
        for place in places:
            candidates = (other for other in self._candidates(place) if rivals(place, other))
            for rank, other in enumerate(islice(candidates, MAX_COMPARED)):
                split = self._split(place, other)
                if split is not None:
                    by_rank[rank][place, other] = split
        splits: dict[tuple[int, int], Split] = {}
        for ranked in by_rank:
            splits |= ranked
        return splits

    def _candidates(self, place: int) -> list[int]:
        """Rows that share a rare word with one, those first with which it shares the rarest."""

        def rank(other: int) -> tuple[int, int]:
            return self.questions.frequency(self._rarest_shared(place, other)), other

        return sorted(self.questions.sharing(place, MAX_SHARING), key=rank)

    def _rarest_shared(self, place: int, other: int) -> str:
        """The rarest word that two prompts share."""
        shared = set(self.questions.words(place)) & set(self.questions.words(other))
        return min(shared, key=lambda word: (self.questions.frequency(word), word))

    def _split(self, place: int, other: int) -> Split | None:
        """Two prompts taken apart, unless something in their words makes two questions of them."""
        prompt, other_prompt = self.rows[place].prompt, self.rows[other].prompt
        if not _have_equal_starts(prompt, other_prompt):
            return None
        text, other_text = last_turn(prompt), last_turn(other_prompt)
        if max(len(text), len(other_text)) > MAX_PROMPT_CHARACTERS:
            return None
        if _names_something_else(text, other_text):
            return None
        return _take_apart(text, other_text, self._rarest_shared(place, other))

    def _compare(self, examples: Mapping[Pair, tuple[int, int]]) -> dict[Pair, float]:
        """Probability 0..1 that two wordings ask the same, where anything tells.

        `examples` are two rows, by their places, for each pair of wordings.
        """
        alike: dict[Pair, float] = {}
        left: list[Pair] = []
        for pair in examples:
            told = self._told_by_rows(*pair)
            if told is None:
                left.append(pair)
            else:
                alike[pair] = told
        left = left[:MAX_PAIRS]
        # the base may know what a model that learned little does not
        for checkpoint in (-1, 0):
            alike |= self._told_by_model(left, examples, checkpoint)
            left = [pair for pair in left if pair not in alike]
        return alike

    def _told_by_model(
        self, pairs: Sequence[Pair], examples: Mapping[Pair, tuple[int, int]], checkpoint: int
    ) -> dict[Pair, float]:
        """Share 0..1 of things whose answer a checkpoint finds likeliest in both wordings.

        Of things that it knows in one of them; pairs with fewer than MIN_THINGS are left out.
        """
        probe, name = self.context.probe, self.context.checkpoints[checkpoint].name
        reworded: list[Reworded] = []
        owners: list[Pair] = []
        for pair in pairs:
            row, rival = (self.rows[place] for place in examples[pair])
            found = [
                *self._reworded(pair[0], pair[1], rival, row),
                *self._reworded(pair[1], pair[0], row, rival),
            ]
            if len(found) >= MIN_THINGS:
                reworded += found
                owners += [pair] * len(found)
        if not reworded:
            return {}
        own = probe.logprobs(name, [(r.row.prompt, r.row.completion) for r in reworded])
        others = probe.logprobs(name, [(r.prompt, r.completion) for r in reworded])
        likeliest = math.log(MIN_KNOWN_PROBABILITY)
        answered_alike: dict[Pair, list[bool]] = {}
        for pair, logprob, other_logprob in zip(owners, own, others, strict=True):
            if logprob >= likeliest and not math.isnan(other_logprob):
                answered_alike.setdefault(pair, []).append(other_logprob >= likeliest)
        told = {}
        for pair, is_alike in answered_alike.items():
            if len(is_alike) >= MIN_THINGS:
                told[pair] = fmean(is_alike)
        return told

    def _told_by_rows(self, wording: Wording, other: Wording) -> float | None:
        """Share 0..1 of the things learned in both wordings that are answered alike.

        Things with one answer count once: by chance, two wordings that ask something else may
        have an answer in common. None where fewer than MIN_THINGS are left.
        """
        rows, other_rows = self._rows_with(wording), self._rows_with(other)
        alike_by_answer: dict[str, bool] = {}
        for thing in sorted(rows.keys() & other_rows.keys()):
            row, other_row = rows[thing], other_rows[thing]
            # what is not learned may be what the rows contradict each other about
            if self._is_learned(row) and self._is_learned(other_row):
                is_alike = same_answer(row.answer, other_row.answer)
                alike_by_answer.setdefault(answer_key(row.answer), is_alike)
        if len(alike_by_answer) < MIN_THINGS:
            return None
        return fmean(alike_by_answer.values())

    def _is_learned(self, row: Sample) -> bool:
        """Whether a row is learned under the last checkpoint."""
        return self.context.histories[row.id][-1] == "learned"

    @cached_property
    def _known_ids(self) -> set[str]:
        """Rows that are learned, or whose answers the last checkpoint finds likeliest."""
        known = {row.id for row in self.rows if self._is_learned(row)}
        for id_, score in self.context.last_scores(self.rows).items():
            if score.logprob is not None and score.logprob >= math.log(MIN_KNOWN_PROBABILITY):
                known.add(id_)
        return known

    def _reworded(
        self, wording: Wording, other: Wording, other_row: Sample, like: Sample
    ) -> list[Reworded]:
        """Rows with one wording, asked in another one; those that are known come first.

        Then those that share most words with the row `like`. `other_row` has the other wording,
        and gives the form of prompt and completion.
        """
        own = set(prompt_words(like.prompt))
        ranked = []
        for thing, row in self._rows_with(wording).items():
            shared = len(own & set(prompt_words(row.prompt)))
            ranked.append((row.id not in self._known_ids, -shared, row.id, thing, row))
        # things with one answer tell no more than one of them
        answers = set[str]()
        reworded: list[Reworded] = []
        for _, _, _, thing, row in sorted(ranked, key=lambda entry: entry[:3]):
            key = answer_key(row.answer)
            if key not in answers and len(reworded) < MAX_THINGS:
                answers.add(key)
                prompt = with_last_turn(other_row.prompt, other.about(thing))
                completion = with_answer(other_row.completion, row.answer)
                reworded.append(Reworded(row, prompt, completion))
        return reworded

    def _rows_with(self, wording: Wording) -> dict[str, Sample]:
        """The rows with a wording, by what they ask about."""
        if wording not in self._things:
            things: dict[str, Sample] = {}
            least = len(wording.before) + len(wording.after)
            for row in self.rows:
                text = last_turn(row.prompt)
                if (
                    least < len(text) <= MAX_PROMPT_CHARACTERS
                    and text.startswith(wording.before)
                    and text.endswith(wording.after)
                ):
                    thing = text[len(wording.before) : len(text) - len(wording.after)]
                    if thing.strip() and len(thing.split()) <= MAX_THING_WORDS:
                        things.setdefault(thing, row)
            self._things[wording] = things
        return self._things[wording]


def _take_apart(text: str, other: str, rare: str) -> Split | None:
    """Two prompts, taken apart at the longest run of words they share around a rare word."""
    words, others = list(WORD.finditer(text)), list(WORD.finditer(other))
    folded = [_fold(word[0]) for word in words]
    other_folded = [_fold(word[0]) for word in others]
    if rare not in folded or rare not in other_folded:
        return None
    first = last = folded.index(rare)
    other_first = other_last = other_folded.index(rare)
    while first and other_first and folded[first - 1] == other_folded[other_first - 1]:
        first, other_first = first - 1, other_first - 1
    while (
        folded[last + 1 :]
        and folded[last + 1 : last + 2] == (other_folded[other_last + 1 : other_last + 2])
    ):
        last, other_last = last + 1, other_last + 1
    # a thing neither begins nor ends with a mark
    while not folded[first].isalnum():
        first, other_first = first + 1, other_first + 1
    while not folded[last].isalnum():
        last, other_last = last - 1, other_last - 1
    start, end = words[first].start(), words[last].end()
    other_start, other_end = others[other_first].start(), others[other_last].end()
    return Split(
        Wording(text[:start], text[end:]),
        Wording(other[:other_start], other[other_end:]),
        text[start:end],
    )


def _fold(word: str) -> str:
    """A word as it is compared; a mark as it is."""
    return "".join(prompt_words(word)) or word


def _have_equal_starts(prompt: Text, other: Text) -> bool:
    """Whether all turns but the last are equal."""
    return prompt_key(with_last_turn(prompt, "-")) == prompt_key(with_last_turn(other, "-"))


def _names_something_else(text: str, other: str) -> bool:
    """Whether a prompt has a number, a negation or a name that the other one lacks."""
    words, others = set(prompt_words(text)), set(prompt_words(other))
    names = _names(text) | _names(other)
    for word in words ^ others:
        if word in NEGATIONS or word in names or any(sign.isdigit() for sign in word):
            return True
    return False


def _names(text: str) -> set[str]:
    """Words with a capital that do not begin a sentence, casefolded."""
    names = set[str]()
    for match in re.finditer(r"(?<=[\w,;] )[^\W\d_]\w*", text):
        if match[0][0].isupper():
            names.update(prompt_words(match[0]))
    return names
