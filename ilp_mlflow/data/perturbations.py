"""Minimal edits that make a text say something else: another number, another name, a negation, another word."""

from __future__ import annotations

import itertools
import random
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

UNSPACED = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff"  # scripts without spaces between words: Thai, Lao, Japanese, Chinese
WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}](?:[^\s{UNSPACED}]*[^\W{UNSPACED}])?")
NUMBER = re.compile(
    r"(?<![\w.,])(?:(?P<whole>[0-9]{1,3}(?:,[0-9]{3}){1,4}|[0-9]{1,15})(?:\.(?P<decimals>[0-9]{1,9}))?|\.(?P<fraction>[0-9]{1,9}))"
    r"(?![0-9]|[.,][0-9]|(?:st|nd|rd|th)\b)"
)
CAPITALISED = re.compile(r"[^\W\d_](?:[\w-]|['\u2019](?!s\b))*")
AUXILIARY = re.compile(
    r"\b(is|are|was|were|can|could|will|would|should|must|does|did|(?:has|have|had)(?= not\b|n['\u2019]t\b| been\b| \w+ed\b))"
    r"(\s?not\b|n?['\u2019]t\b|\b(?!['\u2019]))"
)
PAIRS = (
    "yes no,true false,always never,more less,more fewer,before after,increase decrease,increases decreases,"
    "increased decreased,increasing decreasing,high low,higher lower,highest lowest,largest smallest,larger smaller,"
    "positive negative,correct incorrect,possible impossible,valid invalid,equal unequal,up down,everyone nobody,"
    "everything nothing,above below,maximum minimum,legal illegal,safe unsafe,early late,earlier later,with without"
)
OPPOSITES = {a: b for pair in PAIRS.split(",") for a, b in (pair.split(), pair.split()[::-1])}
OPPOSITE = re.compile(rf"\b(?:{'|'.join(OPPOSITES)})\b", re.IGNORECASE)
TRIES = 3
"""Replacements tried for one name or word."""


@dataclass(frozen=True)
class Vocabulary:
    """What edits may put into a text."""

    names: Mapping[int, Sequence[str]]
    """Names, by their number of words."""
    words: Mapping[str, Sequence[str]]
    """Words, by shape."""


def collect_vocabulary(texts: Iterable[str]) -> Vocabulary:
    """The names and words of `texts`."""
    names, words = defaultdict[int, set[str]](set), defaultdict[str, set[str]](set)
    known = set[str]()
    for text in texts:
        known.update(WORD.findall(text))
        for name in _names(text):
            names[len(name.split())].add(name)
    for word in known:
        words[text_shape(word)].add(word)
    return Vocabulary(
        {k: sorted(v) for k, v in names.items()}, {k: sorted(v) for k, v in words.items()}
    )


def text_shape(text: str) -> str:
    """Kinds of characters in order, runs collapsed: `New York, 1999` is `Aa Aa, 0`."""
    return "".join(kind for kind, _ in itertools.groupby(map(_kind, text)))


def perturb(text: str, words: Vocabulary, seed: str) -> Iterator[str]:
    """Distinct changed copies of `text`, best first: different kinds in turn, then single words swapped."""
    rng = random.Random(seed)
    kinds = itertools.zip_longest(
        _numbers(text, rng), _entities(text, words, rng), _negations(text)
    )
    seen = {text}
    for edited in itertools.chain(
        (e for turn in kinds for e in turn if e is not None), _swaps(text, words, rng)
    ):
        if edited not in seen:
            seen.add(edited)
            yield edited


def parse_number(match: re.Match[str]) -> tuple[int, int]:
    """A match of NUMBER as an integer and the number of its decimals, as few as the value needs."""
    decimals = (match["decimals"] or match["fraction"] or "").rstrip("0")
    return int((match["whole"] or "").replace(",", "") + decimals or "0"), len(decimals)


def _numbers(text: str, rng: random.Random) -> Iterator[str]:
    """Every number changed by little wherever it occurs, the one that occurs last first."""
    found = {
        parse_number(m): None
        for m in reversed(list(NUMBER.finditer(text)))
        if not _numbering(text, m)
    }
    for value, decimals in found:
        digits = str(value)
        place = min(len(digits) - len(digits.rstrip("0")), max(len(digits) - 2, 0))
        steps = [1, -1, 2, -2, 3, -3]
        rng.shuffle(steps)
        for step in steps:
            near = value + step * 10**place
            if near > 0:
                yield NUMBER.sub(
                    lambda m, old=(value, decimals), new=near: (  # type: ignore[misc]
                        _written(new, old[1], m)
                        if parse_number(m) == old and not _numbering(text, m)
                        else m[0]
                    ),
                    text,
                )


def _numbering(text: str, match: re.Match[str]) -> bool:
    """The number counts the items of a list: `2. Stir.`."""
    line = text.rfind("\n", 0, match.start()) + 1
    return (
        text[match.end() : match.end() + 2] in (". ", ") ")
        and not text[line : match.start()].strip()
    )


def _written(value: int, decimals: int, like: re.Match[str]) -> str:
    """`value` / 10^`decimals` in the format of the number `like`."""
    whole, shown = like["whole"] or "", len(like["decimals"] or like["fraction"] or "")
    width = len(whole) if whole.startswith("0") or not whole else 1
    digits = str(value * 10 ** (shown - decimals)).zfill(width + shown)
    before, after = digits[: len(digits) - shown], digits[len(digits) - shown :]
    return (f"{int(before):,}" if "," in whole else before) + ("." + after if shown else "")


def _entities(text: str, words: Vocabulary, rng: random.Random) -> Iterator[str]:
    """Every name replaced by another of as many words wherever it occurs, late names first."""
    for name in dict.fromkeys(reversed(_names(text))):
        others = words.names.get(len(name.split()), ())
        drawn = rng.sample(others, min(TRIES + 1, len(others)))
        for other in [other for other in drawn if other != name][:TRIES]:
            yield re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", lambda _, other=other: other, text)  # type: ignore[misc]


def _names(text: str) -> list[str]:
    """Runs of capitalised words, those that start a sentence left out unless the whole text is one short run."""
    alone = text.split()
    if 0 < len(alone) <= 4 and all(
        CAPITALISED.fullmatch(word) and _is_capital(word) for word in alone
    ):
        return [text.strip()]
    runs, end = list[str](), -1
    for match in CAPITALISED.finditer(text):
        if not _is_capital(match[0]):
            continue
        if match.start() == end + 1 and text[end] == " ":
            runs[-1] += " " + match[0]
        elif _starts_sentence(text, match.start()):
            continue
        else:
            runs.append(match[0])
        end = match.end()
    return runs


def _is_capital(word: str) -> bool:
    return (
        word[0].isupper()
        and len(word) > 1
        and "_" not in word
        and not word.startswith(("I'", "I\u2019"))
    )


def _starts_sentence(text: str, start: int) -> bool:
    before = text[max(0, start - 4) : start].rstrip(" \"'\u201c\u2018(*")
    return not before or before[-1] in ".!?:\n\t>-•"


def _negations(text: str) -> Iterator[str]:
    """A word turned into its opposite, or `not` put in or taken out behind a verb, late positions first."""
    places = sorted((*OPPOSITE.finditer(text), *AUXILIARY.finditer(text)), key=lambda m: -m.start())
    for match in places:
        if match.re is AUXILIARY:
            new = match[1] + ("" if match[2] else " not")
        elif match[0].lower() in ("yes", "no") and text[match.end() : match.end() + 1] == " ":
            continue  # `no` before a noun has no opposite
        else:
            new = OPPOSITES[match[0].lower()]
            new = (
                new.upper()
                if match[0].isupper()
                else new.capitalize()
                if match[0][0].isupper()
                else new
            )
        yield text[: match.start()] + new + text[match.end() :]


def _swaps(text: str, words: Vocabulary, rng: random.Random) -> Iterator[str]:
    """One word replaced by another of its shape and about its length, late words first, short lower-case ones last."""
    places = sorted(
        WORD.finditer(text), key=lambda m: (len(m[0]) < 4 and m[0].islower(), -m.start())
    )
    for match in places:
        others = words.words.get(text_shape(match[0]), ())
        drawn = rng.sample(others, min(4 * TRIES, len(others)))
        for other in sorted(drawn, key=lambda o: abs(len(o) - len(match[0])))[:TRIES]:
            yield text[: match.start()] + other + text[match.end() :]


def _kind(character: str) -> str:
    if character.isdigit():
        return "0"
    if character.isupper():
        return "A"
    return (
        "a"
        if character.isalpha() or unicodedata.category(character)[0] == "M"
        else " "
        if character.isspace()
        else character
    )
