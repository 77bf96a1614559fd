"""What a long answer that a model gives says of the right one: the same, something else, or open.

Two texts of the same meaning may share few words, and one word may turn a text round. So this
decides only where that is certain: where nothing that counts differs, and where one decisive word
stands for another and all around it is the same. Anything else is open.
"""

from __future__ import annotations

import builtins
import keyword
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

from ilp_mlflow.data.decisive_words import DecisiveWord, Kind, decisive_words
from ilp_mlflow.data.lexical import NUMBER, WORD, plain_number

FREE_WORDS = frozenset(
    (
        *("a", "an", "the", "is", "are", "was", "were", "be", "been", "being", "am"),
        *("do", "does", "did", "have", "has", "had", "it", "this", "that", "these", "those"),
        *("which", "and", "so", "also", "just", "very"),
    )
)
"""Words that may come and go; all others count: prepositions, quantities and modals turn a text."""
HARMLESS_NEGATION = re.compile(
    r"\b(?:not only|without (?:delay|doubt|question)|no (?:more|later|less|fewer|doubt)"
    r"|(?:not|n't) (?:forget|hesitate)|neither|nor)\b",
    re.IGNORECASE,
)
"""Negations that do not turn a sentence round; where one is, a difference is left open."""
SIGN = re.compile(
    r"(?<=[\d)\]])\s*[-*]\s*(?=[\d(\[])|(?<=\b[a-z])\s*[-*]\s*(?=[a-z\d]\b)"
    r"|(?<=\w)\s*/\s*(?=\w)|(?<!^)(?<!\n)[<>]|[+^=\u2260\u2264\u2265\u00b1\u221a%\u2030\u00b0$\u20ac"
    r"\u00a3\u00a5\u00bd\u00bc\u00be]"
)
"""A sign that counts outside of code: of a calculation, a comparison, a currency, a share."""
CODE_CONSTANTS = ("true", "false", "null", "nil", "undefined", "asc", "desc")
"""Words that other languages than Python take for themselves."""
RESULT_LINE = re.compile(
    r"####|\W*(?:so |therefore,? |thus,? )?(?:the )?(?:final )?(?:answer|result|solution|total)\b"
    r"|.*\\boxed",
    re.IGNORECASE,
)
"""A last line that says itself that it is the result."""
RESULT_WORDS = 12
"""Words of a last line, at most, for it to be a result."""
SAME_SIGNS = str.maketrans(
    {"\u2019": "'", "\u2018": "'", "\u2013": "-", "\u2212": "-", "\u00d7": "*", "\u201c": '"'}
)
"""Signs that are written in several ways."""


class Word(NamedTuple):
    """A word of an answer, or a sign that counts, as it is compared."""

    text: str
    """What must be equal: of a decisive word its value, of another one its small letters."""
    kind: Kind | None
    """What makes it decisive; None for any other word."""
    written: str
    """As it stands in the answer."""

    @property
    def counts(self) -> bool:
        """Whether it may not come and go."""
        return self.kind is not None or self.text not in FREE_WORDS


class Comparison(NamedTuple):
    """How a model's answer stands to the right one."""

    outcome: Literal["same", "contradicts", "open"]
    """Whether it says the same, contradicts it, or whether that cannot be told."""
    reason: str
    """In a few words."""


def compare_answers(answer: str, said: str, ended: bool = True) -> Comparison:
    """How what a model said stands to the right answer.

    `same`: all words that count are equal and in the same order; FREE_WORDS, marks and spaces may
    differ. `contradicts`: another number, name or piece of code stands in the place of the right
    one, or a negation comes or goes, between words that are the same; or the last line comes to
    another number. Anything else is `open`. Of an answer that was not `ended` the last word is
    left out, and it is never the same.
    """
    answer, said = _normalised(answer), _normalised(said)
    right = [word for word in words_of(answer) if word.counts]
    other = [word for word in words_of(said) if word.counts]
    if not ended:
        other = other[:-1]
    if ended and [word.text for word in right] == [word.text for word in other]:
        return Comparison("same", "says the same")
    results = _results(answer, said) if ended else None
    if results is not None and results[0] != results[1]:
        reason = f"comes to {results[1]} where the row comes to {results[0]}"
        return Comparison("contradicts", reason)
    changed = _contradiction(right, other, ended)
    if changed is not None and not (HARMLESS_NEGATION.search(answer + "\n" + said)):
        if results is None:
            return Comparison("contradicts", changed)
        return Comparison("open", f"{changed}, but comes to the same result")
    return Comparison("open", changed or _first_difference(right, other))


def words_of(text: str) -> list[Word]:
    """The words of an answer in order, with the signs that count."""
    decisive = decisive_words(text)
    placed = [(word.start, _decisive_word(word, text)) for word in decisive]
    place = 0
    for start, end in [*((word.start, word.end) for word in decisive), (len(text), len(text))]:
        placed += _plain_words(text, place, start)
        place = end
    inside = {n for word in decisive for n in range(word.start, word.end)}
    for match in SIGN.finditer(text):
        sign = match.group().strip()
        start = match.end() - len(match.group().lstrip())
        if start not in inside:
            placed.append((start, Word(sign, None, sign)))
    return [word for _, word in sorted(placed, key=lambda one: one[0])]


def _normalised(text: str) -> str:
    return unicodedata.normalize("NFC", text).translate(SAME_SIGNS)


def _plain_words(text: str, start: int, end: int) -> list[tuple[int, Word]]:
    """The words of a stretch without a decisive one, with their places."""
    words = []
    for match in WORD.finditer(text, start, end):
        # a hyphen joins words and is none
        for part in match.group().split("-"):
            written = part.strip("_*`")
            if written:
                words.append((match.start(), Word(written.lower(), None, written)))
    return words


def _decisive_word(word: DecisiveWord, text: str) -> Word:
    # a name is the same word where a sentence begins with it
    value = word.value.lower() if word.kind == "name" else word.value
    return Word(value, word.kind, text[word.start : word.end])


def _results(answer: str, said: str) -> tuple[str, str] | None:
    """The numbers that the last lines of both come to; None where one of them comes to none."""
    right, other = _result(answer), _result(said)
    return None if right is None or other is None else (right, other)


def _result(text: str) -> str | None:
    """The last number of a last line that is a result."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if len(lines) < 2 or not RESULT_LINE.match(lines[-1]):
        return None
    numbers = list(NUMBER.finditer(lines[-1]))
    is_short = len(WORD.findall(lines[-1])) <= RESULT_WORDS
    return plain_number(numbers[-1]) if numbers and is_short else None


def _contradiction(right: Sequence[Word], other: Sequence[Word], ended: bool) -> str | None:
    """The first decisive word that has another one in its place, in words; None without one."""
    for taken, put, is_last in _differences(right, other):
        # what an unfinished answer would have gone on with is not known
        if is_last and not ended:
            continue
        if _turns(taken, put) or _swaps(taken, put, right, other):
            return _instead(taken, put)
    return None


def _differences(
    right: Sequence[Word], other: Sequence[Word]
) -> list[tuple[Sequence[Word], Sequence[Word], bool]]:
    """Stretches in which two answers differ: the words of both, and whether nothing follows."""
    texts, other_texts = [word.text for word in right], [word.text for word in other]
    differences = []
    for operation, a, b, c, d in SequenceMatcher(None, texts, other_texts, False).get_opcodes():
        if operation != "equal":
            is_last = b == len(right) or d == len(other)
            differences.append((right[a:b], other[c:d], is_last))
    return differences


def _turns(taken: Sequence[Word], put: Sequence[Word]) -> bool:
    """Whether a negation comes or goes, and nothing else."""
    both = [*taken, *put]
    return len(both) == 1 and both[0].kind == "negation"


def _swaps(
    taken: Sequence[Word],
    put: Sequence[Word],
    right: Sequence[Word],
    other: Sequence[Word],
) -> bool:
    """Whether one decisive word stands for another of its kind, and nothing else differs."""
    if len(taken) != 1 or len(put) != 1 or taken[0].kind != put[0].kind:
        return False
    before, after = taken[0], put[0]
    if before.kind == "number":
        # the same digits may be one number, written otherwise: 1.500 and 1500, 7 and 7th
        return _digits(before) != _digits(after) and bool(_digits(before) and _digits(after))
    if before.kind == "code":
        # how deep a line stands matters in some languages and is taste in others
        if not before.text.strip() or not after.text.strip():
            return False
        return not _renames(before.text, after.text, right, other)
    if before.kind == "name":
        # one may be short for the other: Nov., St.
        short, long = sorted((before.text, after.text), key=len)
        return not long.startswith(short.rstrip("."))
    return False


def _digits(word: Word) -> str:
    """The digits of a number as it is written; of a number word, its value."""
    if not any(letter.isdigit() for letter in word.written):
        return word.text
    return re.sub(r"\D", "", word.written)


def _renames(name: str, new_name: str, right: Sequence[Word], other: Sequence[Word]) -> bool:
    """Whether a name of code that one answer uses throughout has another name in the other."""
    texts, other_texts = Counter(w.text for w in right), Counter(w.text for w in other)
    is_gone = not other_texts[name] and not texts[new_name]
    # what is named is bound somewhere and used elsewhere
    is_bound = texts[name] > 1 and texts[name] == other_texts[new_name]
    return is_gone and is_bound and _is_free(name) and _is_free(new_name)


def _is_free(name: str) -> bool:
    """Whether a program may choose this name: no number, sign, keyword or builtin."""
    taken = keyword.iskeyword(name) or hasattr(builtins, name) or name.lower() in CODE_CONSTANTS
    return name.isidentifier() and not taken


def _first_difference(right: Sequence[Word], other: Sequence[Word]) -> str:
    """The first stretch in which two answers differ, in words."""
    differences = _differences(right, other)
    if not differences:
        return "says the same so far"
    taken, put, _ = differences[0]
    return f"says it otherwise: {_instead(taken, put)}"


def _instead(taken: Sequence[Word], put: Sequence[Word]) -> str:
    if not put:
        return f"leaves out {_quoted(taken)}"
    if not taken:
        return f"puts in {_quoted(put)}"
    return f"says {_quoted(put)} where the row says {_quoted(taken)}"


def _quoted(words: Sequence[Word]) -> str:
    text = " ".join(" ".join(word.written for word in words).split())
    return f"'{text}'" if len(text) <= 60 else f"'{text[:57]}...'"
