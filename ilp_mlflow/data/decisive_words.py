"""Words of an answer that make it right or wrong: numbers, names, negations, code.

An answer may be said otherwise in many of its words. In these it may not: with another number, or
without a "not", it says something else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from ilp_mlflow.data.lexical import NUMBER, plain_number

Kind = Literal["number", "name", "negation", "code"]
"""What makes a word decisive."""


class DecisiveWord(NamedTuple):
    """A decisive word and where it stands."""

    start: int
    """Index of its first character."""
    end: int
    """Index after its last one."""
    kind: Kind
    """What makes it decisive."""
    value: str
    """What must be equal: of a number its value, of any other word its spelling."""


LIST_NUMBER = re.compile(r"^[ \t]*(\d{1,3})[.)][ \t]+(?=\S)", re.MULTILINE)
"""The number of a list's item, which counts items and says nothing of its own."""
MINUS = re.compile(r"(?:^|[^\w)\n])[-\u2212\u2013]$")
"""What stands in front of a negative number: a sign that joins no words and takes nothing away."""
DIGITS_INSIDE = re.compile(r"\w*\d\w*")
"""A word with digits in it: a version, a size with its unit, an ordinal."""
NUMBER_WORDS = {
    "zero": "0",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
    "eleven": "11",
    "twelve": "12",
    "thirteen": "13",
    "fourteen": "14",
    "fifteen": "15",
    "sixteen": "16",
    "seventeen": "17",
    "eighteen": "18",
    "nineteen": "19",
    "twenty": "20",
    "thirty": "30",
    "forty": "40",
    "fifty": "50",
    "sixty": "60",
    "seventy": "70",
    "eighty": "80",
    "ninety": "90",
    "hundred": "100",
    "thousand": "1000",
    "million": "1000000",
    "billion": "1000000000",
    "half": "0.5",
    "twice": "2",
    "thrice": "3",
}
"""English number words by value; "one" is left out, which is mostly a pronoun."""
NEGATION = re.compile(
    r"\b(?:not|no|never|none|nobody|nothing|nowhere|neither|nor|without|cannot|unable)\b"
    r"|\b\w+n['\u2019]t\b",
    re.IGNORECASE,
)
"""English words that turn a sentence into its opposite."""
WORD = re.compile(r"[^\W\d_][\w'\u2019-]*")
NAME = re.compile(r"[A-Z][\w'\u2019-]*[^\W\d_]|[A-Z]{2,}")
SENTENCE_START = re.compile(r"(?:^|[.!?:;\u2026]['\")\]\u201d]*\s+|\n)[\s\-*#>\"'(\[\u201c\d.)]*$")
"""What stands in front of a word that begins a sentence, where a capital letter is no name."""
FENCE = re.compile(r"```[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
"""A block of code between fences; its first group is the code."""
INLINE_CODE = re.compile(r"`([^`\n]+)`")
CODE_LINE = re.compile(
    r"^\s*(?:(?:def|class|return|import|from|if|elif|else|for|while|try|except|with|yield|raise"
    r"|public|private|static|void|const|let|var|function|int|float|string|struct|package"
    r"|func|fn|use|SELECT|INSERT|UPDATE|DELETE|CREATE|FROM|WHERE)\b.*(?:[:;{}()=<>]|\breturn\b).*"
    r"|.*[;{}]\s*|\s*\w[\w.\[\]\"']*\s*[-+*/]?=\s*\S.*|.*\w\(.*\)\s*|@\w.*|return\b.*)$"
)
"""A line that reads as code outside of fences."""
IDENTIFIER = re.compile(
    r"\b(?:\w+(?:\.\w+)*\(\)|\w+_\w+|[a-z]+[A-Z]\w*|https?://[^\s<>()\[\]]*[\w/]|[\w.+-]+@[\w-]+\.\w+"
    r"|\w+(?:/\w+){2,})"
)
"""Names of things in code, addresses and paths, in running text."""
CODE_TOKEN = re.compile(r"\n[ \t]*(?=\S)|\w+|[^\w\s]")
"""A word of code, one of its signs, or where a line of it begins, which tells what it is in."""
SOME_LINES = 0.5
"""Share 0..1 of lines that must read as code for an answer without fences to be code."""
PRONOUN = ("I", "I'm", "I've", "I'll", "I'd")


def decisive_words(text: str) -> list[DecisiveWord]:
    """The decisive words of a text, in its order; none stands in another.

    What is English in it (negations, number words, names by their capital letters) finds less in
    other languages: German nouns are all taken for names, languages without capitals have none.
    """
    found = list(_code(text))
    taken = [(word.start, word.end) for word in found]
    for word in (*_identifiers(text), *_numbers(text), *_negations(text), *_names(text)):
        if all(word.end <= start or end <= word.start for start, end in taken):
            found.append(word)
            taken.append((word.start, word.end))
    return sorted(found)


def is_code(text: str) -> bool:
    """Whether most lines of a text read as code."""
    lines = [line for line in text.splitlines() if line.strip()]
    coded = sum(bool(CODE_LINE.match(line)) for line in lines)
    return len(lines) > 1 and coded > SOME_LINES * len(lines)


def _code(text: str) -> Iterator[DecisiveWord]:
    """Every token of what is code."""
    spans = [match.span(1) for match in FENCE.finditer(text)]
    if not spans and is_code(text):
        spans = [(0, len(text))]
    outside = _outside(text, spans)
    for start, end in outside:
        for match in INLINE_CODE.finditer(text, start, end):
            spans.append(match.span(1))
    for start, end in sorted(spans):
        for match in CODE_TOKEN.finditer(text, start, end):
            # quotes of either kind hold the same text
            yield DecisiveWord(*match.span(), "code", match.group().replace('"', "'"))


def _outside(text: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """What of a text is in none of `spans`, which are in its order."""
    outside, end_before = [], 0
    for start, end in spans:
        outside.append((end_before, start))
        end_before = end
    return [*outside, (end_before, len(text))]


def _identifiers(text: str) -> Iterator[DecisiveWord]:
    for match in IDENTIFIER.finditer(text):
        yield DecisiveWord(*match.span(), "code", match.group())


def _numbers(text: str) -> Iterator[DecisiveWord]:
    counting = {match.start(1) for match in LIST_NUMBER.finditer(text)}
    for match in NUMBER.finditer(text):
        if match.start() in counting:
            continue
        signed = MINUS.search(text[: match.start()][-2:])
        start = match.start() - 1 if signed else match.start()
        value = plain_number(match)
        yield DecisiveWord(start, match.end(), "number", f"-{value}" if signed else value)
    for match in DIGITS_INSIDE.finditer(text):
        if not match.group().isdigit():
            # letters behind a number are its unit: 5 mW are not 5 MW
            yield DecisiveWord(*match.span(), "number", match.group())
    for match in WORD.finditer(text):
        spelled = NUMBER_WORDS.get(match.group().lower())
        if spelled is not None:
            yield DecisiveWord(*match.span(), "number", spelled)


def _negations(text: str) -> Iterator[DecisiveWord]:
    for match in NEGATION.finditer(text):
        word = match.group().lower()
        # `don't`, `cannot` and `not` are one word with others around it
        is_not = word == "cannot" or (word.endswith("t") and word[-2] in "'\u2019")
        yield DecisiveWord(*match.span(), "negation", "not" if is_not else word)


def _names(text: str) -> Iterator[DecisiveWord]:
    """Words with a capital letter that no sentence begins with, and those wherever they stand."""
    capitals = []
    for match in NAME.finditer(text):
        begins_word = not text[: match.start()][-1:].isalnum()
        if begins_word and match.group() not in PRONOUN:
            capitals.append(match)
    names = set[str]()
    for match in capitals:
        if not SENTENCE_START.search(text[: match.start()][-80:]):
            names.add(match.group())
    for match in capitals:
        if match.group() in names:
            yield DecisiveWord(*match.span(), "name", match.group())
