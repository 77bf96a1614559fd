"""The words of a prompt that say what it asks, and when one of them is another, mistyped."""

from __future__ import annotations

import re
import unicodedata

from ilp_mlflow.core.texts import Text
from ilp_mlflow.data.lexical import NUMBER, UNSPACED, plain_number
from ilp_mlflow.data.matching import prompt_text

_ASKING = """
a an the of in at on for is are am be been being do does has have there that
what which tell name give say state find identify specify provide mention answer question
q can could would me please kindly hello hi hey so ok thanks
"""
ASKING_WORDS = frozenset(_ASKING.split())
"""English words that only ask. Left out, on purpose, are those that change what is asked: `who`,
`when`, `how`, `was`, `not`, `my`, `you`, `and`, `from`, `off`."""
REQUEST = re.compile(
    r"\b(?:can|could|would|will) you (?=(?:please |kindly )?"
    r"(?:tell|name|give|say|state|find|identify|specify|provide|mention|answer)\b)"
)
"""Asks to be told: `can you tell me`, not `can you swim`."""
MISTYPED_ASKING_WORDS = frozenset(
    (
        *("what", "which", "that", "have", "name", "tell", "give", "could", "would", "please"),
        *("identify", "specify", "provide", "question", "answer"),
    )
)
"""Those of them that no other word comes from by one slip, as `three` does from `there`."""
SHORTENED = re.compile(r"(?<=\w)['\u2019](?:re|m|ve|ll|d)\b")
"""What is shortened behind a word: `you're`."""
GENITIVE = re.compile(r"(?<=\w)['\u2019]s\b|(?<=s)['\u2019](?=\s)")
"""Behind an owner, or short for `is`: `Ann's`, `the boys'`, `what's`."""
OWNS = "'"
"""The word that stands for GENITIVE among the words of a prompt."""
SHORTENED_NOT = re.compile(r"n['\u2019]t\b")
ACCENT = re.compile("[\u0300-\u036f]")
"""An accent that stands apart from its letter; signs of other scripts are letters."""
TOKEN = re.compile(
    rf"[0-9]+(?:\.[0-9]+)?(?!\w)|[{UNSPACED}]|[^\W{UNSPACED}_]+|[-+*/=<>^%#&$\u20ac\u00a3']"
)
"""A number, a character of an unspaced script, a word, or a mark that means something."""
DASH = re.compile(r"(?<=[^\W\d])-|-(?!\s*\d)")
"""A dash or hyphen that is no minus."""
MIN_LETTERS_SWAPPED = 4
"""Letters of the shortest word that may be another one with two letters swapped."""
MIN_LETTERS_DOUBLED = 5
"""The same with a letter doubled: `of` and `off` are two words."""
MIN_LETTERS_CHANGED = 6
"""The same where a letter was left out, or a key beside the right one was hit."""
MIN_LETTERS_ASKING = 4
"""The same of words that only ask, whatever the slip."""
KEY_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
"""Letters of a keyboard, by row."""


def prompt_words(prompt: Text) -> list[str]:
    """The words of a prompt in order, casefolded, and OWNS behind an owner.

    Accents and marks do not count, but operators do, and numbers are written as short as they can
    be: `Name Perú's capital!` is `name`, `peru`, OWNS, `capital`; `5.0 + 3` is `5`, `+`, `3`.
    """
    text = unicodedata.normalize("NFKD", prompt_text(prompt)).casefold()
    text = unicodedata.normalize("NFC", ACCENT.sub("", text))
    text = SHORTENED.sub("", SHORTENED_NOT.sub(" not", text))
    text = REQUEST.sub("", " ".join(text.split()))
    text = NUMBER.sub(plain_number, text)
    # quotes go, but the genitive stays
    text = GENITIVE.sub("\0", text).replace("'", " ").replace("\0", f" {OWNS} ")
    return TOKEN.findall(DASH.sub(" ", text))


def is_slip(word: str, other: str) -> bool:
    """Whether two words differ by one slip of a finger, behind their first letter.

    Two letters in a row swapped, one doubled, one left out, or one for its neighbour on the
    keyboard. Other changes of a letter make another word too often: `Iceland` and `Ireland`.
    """
    letters = max(len(word), len(other))
    return (
        (letters >= MIN_LETTERS_SWAPPED and _is_swapped(word, other))
        or (letters >= MIN_LETTERS_DOUBLED and _is_doubled(word, other))
        or (letters >= MIN_LETTERS_CHANGED and _is_changed(word, other))
    )


def is_mistyped_asking_word(word: str) -> bool:
    """Whether a word differs by one slip of a finger from one that only asks."""
    if len(word) < MIN_LETTERS_ASKING - 1:
        return False
    for asking in MISTYPED_ASKING_WORDS:
        if _is_swapped(word, asking) or _is_doubled(word, asking) or _is_changed(word, asking):
            return True
    return word in ("teh", "hte")


def is_one_edit(word: str, other: str) -> bool:
    """Whether one letter was added, left out or changed, or two in a row swapped."""
    shorter, longer = sorted((word, other), key=len)
    if word == other or len(longer) > len(shorter) + 1:
        return False
    place = _first_difference(shorter, longer)
    if len(longer) > len(shorter):
        return shorter[place:] == longer[place + 1 :]
    return shorter[place + 1 :] == longer[place + 1 :] or _is_swapped(shorter, longer)


def deletion_keys(word: str) -> set[str]:
    """The word, and it with each of its letters left out: words one edit apart share a key."""
    return {word, *(word[:place] + word[place + 1 :] for place in range(len(word)))}


def _first_difference(shorter: str, longer: str) -> int:
    """The first place at which two words differ; the end of the shorter one where it has none."""
    for place, (letter, other) in enumerate(zip(shorter, longer, strict=False)):
        if letter != other:
            return place
    return len(shorter)


def _is_swapped(word: str, other: str) -> bool:
    """Whether two letters in a row, behind the first, stand the other way round."""
    place = _first_difference(word, other)
    swapped = word[:place] + word[place : place + 2][::-1] + word[place + 2 :]
    return place > 0 and word != other and swapped == other and word.isalpha()


def _is_doubled(word: str, other: str) -> bool:
    """Whether one of two words has a letter twice in a row that the other one has once."""
    shorter, longer = sorted((word, other), key=len)
    place = _first_difference(shorter, longer)
    is_added = word != other and shorter == longer[:place] + longer[place + 1 :]
    return is_added and place > 0 and longer[place] == longer[place - 1] and longer.isalpha()


def _is_changed(word: str, other: str) -> bool:
    """Whether a letter inside was left out, or one was hit for its neighbour on the keyboard."""
    shorter, longer = sorted((word, other), key=len)
    place = _first_difference(shorter, longer)
    if place == 0 or word == other or not longer.isalpha():
        return False
    if len(longer) == len(shorter):
        pair = word[place] + other[place]
        is_neighbour = any(pair in row or pair[::-1] in row for row in KEY_ROWS)
        return is_neighbour and word[place + 1 :] == other[place + 1 :]
    # a letter at the end makes another word of many: `Dominica` and `Dominican`
    return place < len(shorter) and shorter == longer[:place] + longer[place + 1 :]
