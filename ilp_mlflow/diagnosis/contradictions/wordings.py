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
from difflib import SequenceMatcher
from statistics import fmean
from typing import NamedTuple

from ilp_mlflow.core.interfaces import Context
from ilp_mlflow.core.texts import Text, last_turn, with_last_turn
from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.matching import prompt_key, same_answer, with_answer
from ilp_mlflow.data.question_words import prompt_words
from ilp_mlflow.data.questions import Questions

MAX_SHARING = 64
"""Prompts that may have the word two prompts share; what more have is no thing to ask about."""
MAX_COMPARED = 8
"""Prompts that one prompt is compared with, those that share most words first."""
MAX_PAIRS = 300
"""Pairs of wordings that models are asked about, at most."""
MAX_PROMPT_CHARACTERS = 400
"""Characters of the longest prompt that is taken apart."""
MAX_THING_WORDS = 8
"""Words of the longest thing that is put into a wording."""
MAX_THINGS = 6
"""Rows with one wording whose things are asked about in the other."""
MIN_THINGS = 3
"""Things, of both wordings together, from which it is told whether they ask the same."""
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
        which nothing tells it.
        """
        splits = self._splits(places, rivals)
        examples: dict[tuple[Wording, Wording], tuple[int, int]] = {}
        for pair, split in splits.items():
            examples.setdefault((split.wording, split.other), pair)
        alike = self._compare(examples)
        found: dict[int, dict[int, float]] = {place: {} for place in places}
        for (place, other), split in splits.items():
            if (split.wording, split.other) in alike:
                found[place][other] = alike[split.wording, split.other]
        return found

    def _splits(
        self, places: Sequence[int], rivals: Callable[[int, int], bool]
    ) -> dict[tuple[int, int], Split]:
        """Rivals that share a rare word, taken apart; the first of every row come first."""
        by_rank: list[dict[tuple[int, int], Split]] = [{} for _ in range(MAX_COMPARED)]
        for place in places:
            candidates = [other for other in self._candidates(place) if rivals(place, other)]
            for rank, other in enumerate(candidates[:MAX_COMPARED]):
                split = self._split(place, other)
                if split is not None:
                    by_rank[rank][place, other] = split
        splits: dict[tuple[int, int], Split] = {}
        for ranked in by_rank:
            splits |= ranked
        return splits

    def _candidates(self, place: int) -> list[int]:
        """Rows that share a rare word with one, those that share most words first."""
        own = set(self.questions.words(place))
        others = self.questions.sharing(place, MAX_SHARING)
        return sorted(others, key=lambda o: (-len(own & set(self.questions.words(o))), o))

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
        shared = set(self.questions.words(place)) & set(self.questions.words(other))
        rare = min(shared, key=lambda word: (self.questions.frequency(word), word), default=None)
        return _take_apart(text, other_text, rare) if rare else None

    def _compare(
        self, examples: Mapping[tuple[Wording, Wording], tuple[int, int]]
    ) -> dict[tuple[Wording, Wording], float]:
        """Probability 0..1 that two wordings ask the same, where anything tells.

        `examples` are two rows, by their places, for each pair of wordings.
        """
        alike: dict[tuple[Wording, Wording], float] = {}
        exchanges: dict[str, list[tuple[Text, Text]]] = {}
        asked: dict[str, list[tuple[Wording, Wording]]] = {}
        left = MAX_PAIRS
        for pair, (place, other) in examples.items():
            told = self._told_by_rows(*pair)
            if told is not None:
                alike[pair] = told
            elif left:
                checkpoint, prompts = self._to_ask(pair, self.rows[place], self.rows[other])
                left -= bool(prompts)
                exchanges.setdefault(checkpoint, []).extend(prompts)
                asked.setdefault(checkpoint, []).extend([pair] * len(prompts))
        probabilities: dict[tuple[Wording, Wording], list[float]] = {}
        for checkpoint, prompts in exchanges.items():
            logprobs = self.context.probe.logprobs(checkpoint, prompts) if prompts else []
            for pair, logprob in zip(asked[checkpoint], logprobs, strict=True):
                if not math.isnan(logprob):
                    probabilities.setdefault(pair, []).append(math.exp(min(logprob, 0.0)))
        return alike | {pair: fmean(read) for pair, read in probabilities.items()}

    def _told_by_rows(self, wording: Wording, other: Wording) -> float | None:
        """Share 0..1 of the things learned in both wordings that are answered alike.

        None where fewer than MIN_THINGS are.
        """
        rows, other_rows = self._rows_with(wording), self._rows_with(other)
        answered_alike = []
        for thing in rows.keys() & other_rows.keys():
            row, other_row = rows[thing], other_rows[thing]
            # what is not learned may be what the rows contradict each other about
            if self._is_learned(row, -1) and self._is_learned(other_row, -1):
                answered_alike.append(same_answer(row.answer, other_row.answer))
        return fmean(answered_alike) if len(answered_alike) >= MIN_THINGS else None

    def _is_learned(self, row: Sample, checkpoint: int) -> bool:
        """Whether a row is learned under the checkpoint with this index."""
        return self.context.histories[row.id][checkpoint] == "learned"

    def _to_ask(
        self, pair: tuple[Wording, Wording], row: Sample, other_row: Sample
    ) -> tuple[str, list[tuple[Text, Text]]]:
        """The checkpoint that has learned most, and what it is asked: rows in the other wording.

        No checkpoint where it has learned too few rows in either wording.
        """
        wording, other = pair
        for place in (-1, 0):
            prompts = self._exchanges(wording, other, other_row, row, place)
            prompts += self._exchanges(other, wording, row, other_row, place)
            if len(prompts) >= MIN_THINGS:
                return self.context.checkpoints[place].name, prompts
        return "", []

    def _exchanges(
        self, wording: Wording, other: Wording, other_row: Sample, like: Sample, place: int
    ) -> list[tuple[Text, Text]]:
        """Rows with one wording, learned under the checkpoint at `place`, asked in another one.

        Those come first that share most words with the row `like`; `other_row` has the other
        wording, and gives the form of prompt and completion.
        """
        own = set(prompt_words(like.prompt))
        learned = []
        for thing, row in self._rows_with(wording).items():
            if self._is_learned(row, place):
                learned.append((-len(own & set(prompt_words(row.prompt))), row.id, thing, row))
        exchanges: list[tuple[Text, Text]] = []
        for _, _, thing, row in sorted(learned, key=lambda entry: entry[:2])[:MAX_THINGS]:
            prompt = with_last_turn(other_row.prompt, other.about(thing))
            exchanges.append((prompt, with_answer(other_row.completion, row.answer)))
        return exchanges

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
    longest = None
    matcher = SequenceMatcher(None, folded, other_folded, autojunk=False)
    for block in matcher.get_matching_blocks():
        run = folded[block.a : block.a + block.size]
        if rare in run and (longest is None or block.size > longest.size):
            longest = block
    if longest is None:
        return None
    first, last = 0, longest.size - 1
    # a thing neither begins nor ends with a mark
    while not folded[longest.a + first].isalnum():
        first += 1
    while not folded[longest.a + last].isalnum():
        last -= 1
    start, end = words[longest.a + first].start(), words[longest.a + last].end()
    other_start = others[longest.b + first].start()
    other_end = others[longest.b + last].end()
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
