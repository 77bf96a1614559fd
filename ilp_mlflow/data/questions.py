"""Which prompts are one question in other words, by the words that say what is asked."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import NamedTuple

from ilp_mlflow.core.texts import Text
from ilp_mlflow.data.matching import prompt_key
from ilp_mlflow.data.question_words import (
    OWNS,
    PromptWord,
    deletion_keys,
    has_another_vowel,
    is_one_edit,
    is_slip,
    mistyped_asking_word,
    read_words,
    telling_words,
)

MIN_WORDS = 2
"""Words that say what is asked, by which a question is known; not all of them on all prompts."""
MIN_FRAME_SHARE = 0.9
"""Share 0..1 of all prompts above which a word is on all of them (`Customer: ... Intent:`)."""
MIN_FRAME_PROMPTS = 20
"""Prompts from which it is told which words are on all of them."""
MAX_OWNED_WORDS = 12
"""Words of the longest question in which `Ann's city` is also read as `city Ann`."""
MAX_SLIPS = 4
"""Mistyped words in one prompt, at most; of few words two, of others a quarter."""
MIN_ESTABLISHED = 10
"""Prompts that have a word from which a word of fewer prompts, one letter off, is taken for it."""
MAX_ODD_SHARE = 0.05
"""Share 0..1 of the prompts with a word that may have another one that is taken for it; one may
always."""
MIN_ESTABLISHED_LETTERS = 4
"""Letters of the longer of two such words, at least."""
MAX_LETTERS = 24
"""Letters of the longest word whose slips are looked for."""
ENDLESS = 1 << 62
"""More prompts than there are."""
MAX_POSTINGS = 500
"""Prompts with a word, above which only those that have another word, too, are compared."""


class _Question(NamedTuple):
    """What a prompt asks."""

    key: str
    """See `prompt_key`."""
    readings: list[tuple[str, ...]]
    """The words that say what is asked, in order; then the same with what is owned first."""
    is_known: bool
    """Its words are enough to know the question by them."""

    @property
    def words(self) -> tuple[str, ...]:
        """The words in the order of the prompt."""
        return self.readings[0]


class Questions:
    """The questions that the prompts of many rows ask, to find those that are one question.

    Two prompts are **the same question** when both have the same turns up to case, spaces and marks
    at the ends, or when the words that say what is asked are the same in the same order. Words that
    only ask do not count, nor slips of a finger, and `Ann's city` is the `city of Ann`. A word or a
    number more, or another one, is another question: nearness is not enough.
    """

    def __init__(self, prompts: Sequence[Text]) -> None:
        """Read `prompts`, which are known by their places from 0."""
        self._keys = [prompt_key(prompt) for prompt in prompts]
        words = [read_words(prompt) for prompt in prompts]
        self._frequencies = self._count(words)
        self._keys_by_deletion = _words_by_deletion(self._frequencies)
        self._questions = self._read(words)
        self._places_by_key: dict[str, list[int]] = defaultdict(list)
        self._places_by_reading: dict[tuple[str, ...], list[int]] = defaultdict(list)
        self._places_by_word: dict[str, list[int]] = defaultdict(list)
        for place, question in enumerate(self._questions):
            self._places_by_key[question.key].append(place)
            if question.is_known:
                for reading in question.readings:
                    self._places_by_reading[reading].append(place)
            for word in dict.fromkeys(question.words):
                self._places_by_word[word].append(place)

    def same_as(self, place: int) -> list[int]:
        """The other places whose prompts are the same question, in order.

        No two prompts are compared that share neither the key, nor the words, nor a slip.
        """
        question = self._questions[place]
        candidates = set[int]()
        # a prompt without text asks nothing
        if question.key:
            candidates.update(self._places_by_key[question.key])
        if question.is_known:
            for reading in question.readings:
                candidates.update(self._places_by_reading[reading])
            candidates.update(self._with_slips(question))
        candidates.discard(place)
        return sorted(other for other in candidates if self.is_same(place, other))

    def has_equal_prompt(self, place: int, other: int) -> bool:
        """Whether two prompts are equal up to case, spaces and marks at the ends."""
        return bool(self._keys[place]) and self._keys[place] == self._keys[other]

    def is_same(self, place: int, other: int) -> bool:
        """Whether two prompts are the same question."""
        if self.has_equal_prompt(place, other):
            return True
        question, other_question = self._questions[place], self._questions[other]
        if not (question.is_known and other_question.is_known):
            return False
        for reading, other_reading in product(question.readings, other_question.readings):
            if self._is_aligned(reading, other_reading):
                return True
        return False

    def sharing(self, place: int, most: int) -> list[int]:
        """Other places that share one of the two rarest words that other prompts have, too.

        Words that more than `most` prompts have are left out: they name no thing.
        """
        words = set(self._questions[place].words)
        shared = sorted((w for w in words if len(self._places_by_word[w]) > 1), key=self._rank)
        places: dict[int, None] = {}
        for word in shared[:2]:
            if len(self._places_by_word[word]) <= most:
                places |= dict.fromkeys(self._places_by_word[word])
        places.pop(place, None)
        return list(places)

    def words(self, place: int) -> tuple[str, ...]:
        """The words of a prompt that say what is asked, in order."""
        return self._questions[place].words

    def frequency(self, word: str) -> int:
        """How many different prompts have a word."""
        return self._frequencies[word]

    def _rank(self, word: str) -> tuple[int, str]:
        return self._frequencies[word], word

    def _count(self, words: Sequence[Sequence[PromptWord]]) -> Counter[str]:
        """Different prompts by word."""
        counts = Counter[str]()
        for own in dict(zip(self._keys, words, strict=True)).values():
            counts.update({word.word for word in own})
        return counts

    def _read(self, words: Sequence[Sequence[PromptWord]]) -> list[_Question]:
        """What each prompt asks, by its words."""
        mistyped, on_all = dict[str, str](), set[str]()
        prompts = len(set(self._keys))
        for word, frequency in self._frequencies.items():
            if frequency <= max(1, MAX_ODD_SHARE * prompts):
                asking = mistyped_asking_word(word)
                if asking:
                    mistyped[word] = asking
            if prompts >= MIN_FRAME_PROMPTS and frequency > MIN_FRAME_SHARE * prompts:
                on_all.add(word)
        questions = []
        for key, own in zip(self._keys, words, strict=True):
            readings = _readings(telling_words(own, mistyped))
            is_known = len(readings[0]) >= MIN_WORDS and not on_all.issuperset(readings[0])
            questions.append(_Question(key, readings, is_known))
        return questions

    def _variants(self, word: str) -> list[str]:
        """Other words of the prompts that may be this one, mistyped, or the other way round."""
        variants = set[str]()
        if word.isalpha() and len(word) <= MAX_LETTERS:
            for key in deletion_keys(word):
                for other in self._keys_by_deletion.get(key, ()):
                    if other != word and (is_slip(word, other) or self._is_odd(word, other)):
                        variants.add(other)
        return sorted(variants)

    def _with_slips(self, question: _Question) -> Iterator[int]:
        """Places of prompts that have one of a question's words with a slip."""
        variants = {word: self._variants(word) for word in set(question.words)}
        for word in sorted(variants):
            for variant in variants[word]:
                places = self._places_by_word[variant]
                if len(places) > MAX_POSTINGS:
                    places = self._also_with_another(places, word, variants)
                yield from places

    def _also_with_another(
        self, places: Sequence[int], word: str, variants: Mapping[str, Sequence[str]]
    ) -> list[int]:
        """Those of `places` that have the rarest of the question's other words, or a slip of it."""
        others = sorted((other for other in variants if other != word), key=self._rank)
        if not others:
            return []
        having = set[int]()
        for other in (others[0], *variants[others[0]]):
            having.update(self._places_by_word[other])
        return [place for place in places if place in having]

    def _is_aligned(self, words: Sequence[str], others: Sequence[str]) -> bool:
        """Whether each word stands in the place of the same one, or of a slip of it."""
        if len(words) != len(others):
            return False
        unlike = []
        for word, other in zip(words, others, strict=True):
            if word != other:
                unlike.append((word, other))
        if len(unlike) > min(MAX_SLIPS, max(2, len(words) // 4)):
            return False
        shared = set(words) & set(others)
        rarest = min((self._frequencies[word] for word in shared), default=ENDLESS)
        return all(self._is_slip(word, other, rarest) for word, other in unlike)

    def _is_slip(self, word: str, other: str, rarest: int) -> bool:
        """Whether one of two words is the other, mistyped.

        `rarest` prompts have the rarest word that their prompts share.
        """
        rarer, usual = sorted((self._frequencies[word], self._frequencies[other]))
        # two words that both recur are two words
        if rarer > max(1, MAX_ODD_SHARE * usual):
            return False
        # of two names that are in one prompt each, another vowel makes two: Daboli and Dabolo
        is_sure = is_slip(word, other) and (usual > 1 or not has_another_vowel(word, other))
        # any letter may be wrong where a rarer word still says what is asked about
        return is_sure or (rarest < usual and self._is_odd(word, other))

    def _is_odd(self, word: str, other: str) -> bool:
        """Whether of two words, one edit apart, one is in few prompts, the other established."""
        rarer, usual = sorted((self._frequencies[word], self._frequencies[other]))
        is_long = max(len(word), len(other)) >= MIN_ESTABLISHED_LETTERS
        is_few = usual >= MIN_ESTABLISHED and rarer <= max(1, MAX_ODD_SHARE * usual)
        return (
            is_few and is_long and word.isalpha() and other.isalpha() and is_one_edit(word, other)
        )


def _words_by_deletion(words: Iterable[str]) -> dict[str, list[str]]:
    """Words by what is left of them without one letter: those one edit apart meet."""
    by_deletion: dict[str, list[str]] = defaultdict(list)
    for word in words:
        if word.isalpha() and MIN_ESTABLISHED_LETTERS <= len(word) + 1 <= MAX_LETTERS:
            for key in deletion_keys(word):
                by_deletion[key].append(word)
    return by_deletion


def _readings(words: Sequence[str]) -> list[tuple[str, ...]]:
    """The words without OWNS; then each with an owner and what is owned changing places."""
    plain = tuple(word for word in words if word != OWNS)
    readings = {plain: None}
    if OWNS in words and len(words) <= MAX_OWNED_WORDS:
        place = words.index(OWNS)
        before, after = words[:place], tuple(w for w in words[place + 1 :] if w != OWNS)
        # where the owner begins and what is owned ends is not known: all places are tried
        for start, end in product(range(place), range(1, len(after) + 1)):
            turned = (*before[:start], *after[:end], *before[start:], *after[end:])
            readings[turned] = None
    return list(readings)
