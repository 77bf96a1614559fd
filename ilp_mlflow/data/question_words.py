"""The words of a prompt that say what it asks, and when one of them is another, mistyped."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ilp_mlflow.core.texts import Text
from ilp_mlflow.data.lexical import NUMBER, UNSPACED, plain_number
from ilp_mlflow.data.matching import prompt_text

POLITE_WORDS = frozenset(("please", "kindly", "hello", "hi", "hey", "ok", "thanks", "me"))
"""Words that ask nothing, wherever they stand."""
TELLING_WORDS = frozenset(
    (
        *("tell", "name", "give", "say", "state", "find", "identify", "specify", "provide"),
        *("mention", "answer", "question", "q"),
    )
)
"""Words that ask to be told, at the beginning of a sentence or in front of a colon."""
AUXILIARY_WORDS = frozenset(
    ("is", "are", "am", "be", "been", "being", "do", "does", "has", "have", "can", "could", "would")
)
"""Verbs that help to ask."""
ARTICLES = frozenset(("a", "an", "the"))
ASKING_WORDS = (
    POLITE_WORDS
    | TELLING_WORDS
    | AUXILIARY_WORDS
    | ARTICLES
    | frozenset(("of", "in", "at", "on", "for", "there", "that", "what", "which", "so"))
)
"""English words that only ask, unless a prompt is about them. Left out, on purpose, are those that
change what is asked: `who`, `when`, `how`, `was`, `not`, `my`, `you`, `and`, `from`, `off`."""
MENTIONING_WORDS = frozenset(("of", "to", "word", "verb", "term"))
"""Words behind which a verb is what is asked about: `the past tense of do`."""
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
QUOTED = re.compile(
    "(?<!\\w)[\"'`\u2018\u201c\u00ab]([^\"'`\u2018-\u201d\u00ab\u00bb]{1,60})[\"'`\u2019\u201d\u00bb](?!\\w)"
)
"""A few words in quotes."""
QUOTE = "\x01"
"""Stands in front of each quoted word while a prompt is read."""
TOKEN = re.compile(
    rf"{QUOTE}?(?:[0-9]+(?:\.[0-9]+)?(?!\w)|[{UNSPACED}]|[^\W{UNSPACED}_]+"
    r"|[-+*/=<>^%#&$\u20ac\u00a3'])"
)
"""A number, a character of an unspaced script, a word, or a mark that means something."""
SENTENCE_END = re.compile(r"[)\s\"\u201d]*(?:[.?!,\u3002\uff1f]|$)")
"""What follows the last word of a sentence, or of a part of one."""
SENTENCE_START = re.compile(r"[.?!:,\u3002\uff1f]")
"""A mark behind which a sentence, or a part of one, begins."""
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
VOWELS = frozenset("aeiouy")
"""Letters that names are told apart by as often as mistyped."""
KEY_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
"""Letters of a keyboard, by row."""


class PromptWord(NamedTuple):
    """A word of a prompt, with what tells whether it only asks."""

    word: str
    """Casefolded, without accents; a number as short as it can be written."""
    is_quoted: bool
    """It stands in quotes."""
    is_first: bool
    """A sentence, or a part of one, begins with it."""
    is_last: bool
    """A sentence, or a part of one, ends with it."""
    is_label: bool
    """A colon follows: `Answer:`."""


def prompt_words(prompt: Text) -> list[str]:
    """The words of a prompt in order, casefolded, and OWNS behind an owner.

    Accents and marks do not count, but operators do, and numbers are written as short as they can
    be: `Name Perú's capital!` is `name`, `peru`, OWNS, `capital`; `5.0 + 3` is `5`, `+`, `3`.
    """
    return [word.word for word in read_words(prompt)]


def read_words(prompt: Text) -> list[PromptWord]:
    """The words of a prompt in order, see `prompt_words`, with where they stand."""
    text = unicodedata.normalize("NFKD", prompt_text(prompt)).casefold()
    text = unicodedata.normalize("NFC", ACCENT.sub("", text))
    text = SHORTENED.sub("", SHORTENED_NOT.sub(" not", text))
    # a line ends a sentence
    text = REQUEST.sub("", " ".join(text.strip().replace("\n", " . ").split()))
    text = NUMBER.sub(plain_number, QUOTED.sub(_mark_quoted, text))
    # quotes go, but the genitive stays
    text = GENITIVE.sub("\0", text).replace("'", " ").replace("\0", f" {OWNS} ")
    text = DASH.sub(" ", text)
    words: list[PromptWord] = []
    end = 0
    for match in TOKEN.finditer(text):
        word = PromptWord(
            word=match[0].removeprefix(QUOTE),
            is_quoted=match[0].startswith(QUOTE),
            is_first=not words or SENTENCE_START.search(text, end, match.start()) is not None,
            is_last=SENTENCE_END.match(text, match.end()) is not None,
            is_label=text.startswith(":", match.end()),
        )
        words.append(word)
        end = match.end()
    return words


def telling_words(words: Sequence[PromptWord], mistyped: Mapping[str, str]) -> list[str]:
    """The words of a prompt that say what is asked: all but those that only ask.

    `mistyped` are words that are known to be slips of words that only ask. What a prompt is about
    stays, though it is such a word: `the past tense of "have"`.
    """
    telling = list[str]()
    leading = True
    before = ""
    for word in words:
        leading = leading or word.is_first
        asking = mistyped.get(word.word, word.word)
        if not _only_asks(word, asking, before, leading):
            telling.append(word.word)
            leading = False
        before = asking
    return telling


def _only_asks(word: PromptWord, asking: str, before: str, leading: bool) -> bool:
    """Whether a word only asks where it stands.

    `asking` is the word as it was meant, `before` the one before it; `leading` tells that all
    before it in its sentence only ask.
    """
    if asking not in ASKING_WORDS or word.is_quoted:
        return False
    if asking in POLITE_WORDS or word.is_label:
        return True
    if asking in TELLING_WORDS:
        return leading and not word.is_last
    is_mentioned = asking in AUXILIARY_WORDS and before in MENTIONING_WORDS
    return not (word.is_last or is_mentioned)


def _mark_quoted(match: re.Match[str]) -> str:
    """The words between quotes, each with QUOTE in front."""
    return " ".join(f" {QUOTE}{word}" for word in match[1].split())


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


def mistyped_asking_word(word: str) -> str:
    """The word that only asks from which another one differs by one slip of a finger, or ""."""
    if len(word) < MIN_LETTERS_ASKING - 1:
        return ""
    for asking in sorted(MISTYPED_ASKING_WORDS):
        if _is_swapped(word, asking) or _is_doubled(word, asking) or _is_changed(word, asking):
            return asking
    return "the" if word in ("teh", "hte") else ""


def is_one_edit(word: str, other: str) -> bool:
    """Whether one letter was added, left out or changed, or two in a row swapped."""
    shorter, longer = sorted((word, other), key=len)
    if word == other or len(longer) > len(shorter) + 1:
        return False
    place = _first_difference(shorter, longer)
    if len(longer) > len(shorter):
        return shorter[place:] == longer[place + 1 :]
    return shorter[place + 1 :] == longer[place + 1 :] or _is_swapped(shorter, longer)


def has_another_vowel(word: str, other: str) -> bool:
    """Whether two words differ in one vowel: as names both are as good, `Daboli` and `Dabolo`."""
    place = _first_difference(word, other)
    if len(word) != len(other) or word[place + 1 :] != other[place + 1 :]:
        return False
    return word[place : place + 1] in VOWELS and other[place : place + 1] in VOWELS


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
