"""What a long answer that a model gives says of the right one: the same, something else, or open.

Two texts of the same meaning may share few words, so this decides only where it can: where the
answers go side by side and differ in a decisive word, and where they differ in nothing that counts.
"""

from __future__ import annotations

import builtins
import functools
import keyword
import re
from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

from ilp_mlflow.data.decisive_words import DecisiveWord, Kind, decisive_words
from ilp_mlflow.data.lexical import NUMBER, WORD

NEAR = 0.85
"""Share 0..1 of all words that two answers must have in the same order to be near."""
SHORT_STRETCH = 6
"""Words of a stretch in which answers differ, at most, for one to stand for the other's."""
SWAPPED_WORDS = 2
"""Words of a stretch, at most, that are swapped for others and not put otherwise."""
CODE_CONSTANTS = ("true", "false", "null", "nil", "undefined", "asc", "desc")
"""Words that other languages than Python take for themselves."""
LAST_LINE_WORDS = 12
"""Words of the last line, at most, for it to be the result that the lines above lead to."""
RESULT_LINE = re.compile(
    r"####|.*=|.*\\boxed|.*\b(?:answer|result|total|solution)\b", re.IGNORECASE
)
"""A last line that says itself that it is the result."""
BARE_RESULT_WORDS = 4
"""Words of a last line, at most, that is a result by its number alone."""
LIST_ITEM = re.compile(r"(?:[-*\u2022]|\d+[.)])\s")


class Word(NamedTuple):
    """A word of an answer, as it is compared."""

    text: str
    """What must be equal: of a decisive word its value, of another one its small letters."""
    kind: Kind | None
    """What makes it decisive; None for any other word."""
    written: str
    """As it stands in the answer."""

    @property
    def counts(self) -> bool:
        """Whether it is more than an article, a pronoun or an auxiliary."""
        # `it's` is the pronoun with an auxiliary
        stem = self.text.replace("\u2019", "'").partition("'")[0]
        return self.kind is not None or stem not in _stop_words()


@functools.cache
def _stop_words() -> frozenset[str]:
    """English words that say little by themselves."""
    # takes seconds to import, and is wanted only where answers are compared
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    words: frozenset[str] = ENGLISH_STOP_WORDS
    return words


class Comparison(NamedTuple):
    """How a model's answer stands to the right one."""

    outcome: Literal["same", "contradicts", "open"]
    """Whether it says the same, contradicts it, or whether that cannot be told."""
    reason: str
    """In a few words."""


def compare_answers(answer: str, said: str) -> Comparison:
    """How what a model said stands to the right answer.

    `contradicts`: in a stretch that both have, another number, name, negation or piece of code
    stands in the place of the right one, and the last lines do not agree all the same. `same`: all
    decisive words are there, no other word that counts is swapped for one alone, and NEAR of all
    words stand in the same order. Anything else is `open`.
    """
    right, other = words_of(answer), words_of(said)
    if [word.text for word in right] == [word.text for word in other]:
        return Comparison("same", "says the same")
    by_last_line = _compare_last_lines(answer, said)
    if by_last_line is not None and by_last_line.outcome == "contradicts":
        return by_last_line
    changed = _contradiction(right, other)
    if changed is not None:
        if by_last_line is None:
            return Comparison("contradicts", changed)
        return Comparison("open", f"{changed}, but comes to the same last line")
    missing = _missing_decisive(right, other)
    if missing:
        return Comparison("open", f"says it otherwise: {_quoted(missing)} is not there")
    swapped = _swap(right, other)
    if swapped is not None:
        return Comparison("open", swapped)
    if _nearness(right, other) < NEAR:
        return Comparison("open", "says it in quite other words")
    return Comparison("same", "says the same in nearly the same words")


def words_of(text: str) -> list[Word]:
    """The words of an answer in order; signs count in code alone."""
    decisive = decisive_words(text)
    words = []
    place = 0
    for word in decisive:
        words += _plain_words(text[place : word.start])
        words.append(_decisive_word(word, text))
        place = word.end
    return [*words, *_plain_words(text[place:])]


def _plain_words(text: str) -> list[Word]:
    return [Word(m.group().lower(), None, m.group()) for m in WORD.finditer(text)]


def _decisive_word(word: DecisiveWord, text: str) -> Word:
    # a name is the same word where a sentence begins with it
    value = word.value.lower() if word.kind == "name" else word.value
    return Word(value, word.kind, text[word.start : word.end])


def _compare_last_lines(answer: str, said: str) -> Comparison | None:
    """How the results stand to each other, where the answer ends with one; None: it does not."""
    right, other = _result_line(answer), _result_line(said)
    if right is None:
        return None
    right_words = [word for word in words_of(right) if word.counts]
    if not any(word.kind for word in right_words):
        return None
    if other is None:
        return Comparison("open", "has no last line of its own")
    other_words = [word for word in words_of(other) if word.counts]
    if Counter(w.text for w in right_words) == Counter(w.text for w in other_words):
        return Comparison("same", "comes to the same last line")
    return Comparison(
        "contradicts", f"ends with {_in_quotes(other)} where the row ends with {_in_quotes(right)}"
    )


def _result_line(text: str) -> str | None:
    """The last line of a text of several lines, where it is short."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if len(lines) < 2 or LIST_ITEM.match(lines[-1]):
        return None
    n_words = len(WORD.findall(lines[-1]))
    is_bare = n_words <= BARE_RESULT_WORDS and NUMBER.search(lines[-1]) is not None
    is_result = is_bare or RESULT_LINE.match(lines[-1]) is not None
    return lines[-1] if is_result and n_words <= LAST_LINE_WORDS else None


def _contradiction(right: Sequence[Word], other: Sequence[Word]) -> str | None:
    """The first decisive word that has another one in its place, in words; None without one."""
    for operation, a, b, c, d in _differences(right, other):
        taken, put = right[a:b], other[c:d]
        if max(len(taken), len(put)) > SHORT_STRETCH:
            continue
        # alone in a stretch, so that no other word of it can turn the sentence back
        is_alone = operation != "replace" or not any(w.counts and not w.kind for w in put)
        if is_alone and _negations(taken) != _negations(put):
            return _instead(taken, put)
        for kind in ("number", "name", "code"):
            before, after = _of_kind(taken, kind), _of_kind(put, kind)
            if not before or not after or Counter(before) == Counter(after):
                continue
            if kind == "code" and _renames(before, after, right, other):
                continue
            return _instead(taken, put)
    return None


def _renames(
    before: Sequence[str], after: Sequence[str], right: Sequence[Word], other: Sequence[Word]
) -> bool:
    """Whether names of code that one answer uses throughout have other names in the other one."""
    texts, other_texts = Counter(w.text for w in right), Counter(w.text for w in other)
    for name, new_name in zip(before, after, strict=False):
        if name == new_name:
            continue
        is_gone = not other_texts[name] and not texts[new_name]
        # what is named is bound somewhere and used elsewhere
        is_bound = texts[name] > 1 and texts[name] == other_texts[new_name]
        if not (is_gone and is_bound and _is_free(name) and _is_free(new_name)):
            return False
    return len(before) == len(after)


def _is_free(name: str) -> bool:
    """Whether a program may choose this name: no number, sign, keyword or builtin."""
    taken = keyword.iskeyword(name) or hasattr(builtins, name) or name.lower() in CODE_CONSTANTS
    return name.isidentifier() and not taken


def _differences(
    right: Sequence[Word], other: Sequence[Word]
) -> list[tuple[str, int, int, int, int]]:
    """Stretches in which two answers differ: what is done, and its places in both."""
    opcodes = _matcher(right, other).get_opcodes()
    return [opcode for opcode in opcodes if opcode[0] != "equal"]


def _matcher(right: Sequence[Word], other: Sequence[Word]) -> SequenceMatcher[str]:
    texts, other_texts = [word.text for word in right], [word.text for word in other]
    return SequenceMatcher(None, texts, other_texts, autojunk=False)


def _nearness(right: Sequence[Word], other: Sequence[Word]) -> float:
    return _matcher(right, other).ratio()


def _negations(words: Sequence[Word]) -> int:
    """Whether negations turn a stretch into its opposite: 1, or 0 for none or two."""
    return sum(word.kind == "negation" for word in words) % 2


def _of_kind(words: Sequence[Word], kind: str) -> list[str]:
    return [word.text for word in words if word.kind == kind]


def _instead(taken: Sequence[Word], put: Sequence[Word]) -> str:
    if not put:
        return f"leaves out {_quoted(taken)}"
    if not taken:
        return f"puts in {_quoted(put)}"
    return f"says {_quoted(put)} where the row says {_quoted(taken)}"


def _missing_decisive(right: Sequence[Word], other: Sequence[Word]) -> list[Word]:
    """Decisive words of the right answer that the other one has less often, in whatever role."""
    left = Counter(word.text for word in other)
    missing = []
    for word in right:
        if word.kind is None:
            continue
        if left[word.text]:
            left[word.text] -= 1
        else:
            missing.append(word)
    return missing


def _swap(right: Sequence[Word], other: Sequence[Word]) -> str | None:
    """The first word that counts which has another one in its place, in words; None without one.

    One word for another in the middle of a sentence that stays may turn it round (hot, cold), as a
    phrase that is put otherwise hardly does.
    """
    for operation, a, b, c, d in _differences(right, other):
        taken, put = right[a:b], other[c:d]
        is_short = operation == "replace" and max(len(taken), len(put)) <= SWAPPED_WORDS
        if is_short and any(word.counts for word in taken) and any(word.counts for word in put):
            return f"{_instead(taken, put)}, which may be as good"
    return None


def _quoted(words: Sequence[Word]) -> str:
    return _in_quotes(" ".join(word.written for word in words))


def _in_quotes(text: str) -> str:
    return f"'{text}'" if len(text) <= 60 else f"'{text[:57]}...'"
