"""Words, numbers and the shape of a text, in scripts with and without spaces between words."""

from __future__ import annotations

import itertools
import re
import unicodedata
from typing import NamedTuple

UNSPACED = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff"
"""Thai, Lao, Japanese and Chinese: scripts without spaces between words, as ranges of a regex."""
WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}](?:[^\s{UNSPACED}]*[^\W{UNSPACED}])?")
"""One character of an unspaced script; else what is between spaces, without marks around it."""
NUMBER = re.compile(
    r"""
    (?<![\w.,])                                 # not inside a word or another number
    (?:
        (?P<whole>[0-9]{1,3}(?:,[0-9]{3}){1,4}|[0-9]{1,15})     # 1,000 or 1000
        (?:\.(?P<decimals>[0-9]{1,9}))?
        |\.(?P<fraction>[0-9]{1,9})             # .5
    )
    (?![0-9]|[.,][0-9]|(?:st|nd|rd|th)\b)       # not 1.2.3, not 3rd
    """,
    re.VERBOSE,
)
"""A decimal number; it may have commas between thousands."""


class Number(NamedTuple):
    """A decimal number, exactly: `digits / 10**decimals`."""

    digits: int
    """All its digits, as an integer."""
    decimals: int
    """How many of them stand behind the point; as few as the value needs."""


def parse_number(match: re.Match[str]) -> Number:
    """The number that a match of NUMBER is: `1,000.50` is `Number(10005, 1)`."""
    groups = match.groupdict(default="")
    whole = groups["whole"].replace(",", "")
    # one of them is empty: a fraction is what stands alone behind a point
    decimals = (groups["decimals"] + groups["fraction"]).rstrip("0")
    return Number(int(whole + decimals or "0"), len(decimals))


def plain_number(match: re.Match[str]) -> str:
    """A number as short as it can be written: `1,000.50` is `1000.5`."""
    number = parse_number(match)
    written = str(number.digits).zfill(number.decimals + 1)
    if not number.decimals:
        return written
    return f"{written[: -number.decimals]}.{written[-number.decimals :]}"


def text_shape(text: str) -> str:
    """Kinds of characters in order, runs of a kind collapsed: `New York, 1999` is `Aa Aa, 0`."""
    kinds = map(_character_kind, text)
    return "".join(kind for kind, _ in itertools.groupby(kinds))


def _character_kind(character: str) -> str:
    """`0` for a digit, `A` for a capital, `a` for any other letter, else the character itself."""
    if character.isdigit():
        return "0"
    if character.isupper():
        return "A"
    # combining marks are parts of letters: vowel signs, accents
    if character.isalpha() or unicodedata.category(character).startswith("M"):
        return "a"
    if character.isspace():
        return " "
    return character
