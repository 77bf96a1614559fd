"""Minimal edits that make a text say something else: another number, name, word, or a negation."""

from __future__ import annotations

import itertools
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ilp_mlflow.data.lexical import NUMBER, WORD, Number, parse_number, text_shape

CAPITALISED = re.compile(r"[^\W\d_](?:[\w-]|['\u2019](?!s\b))*")
"""A word that may be part of a name, without a possessive 's."""
AUXILIARY = re.compile(
    r"\b(is|are|was|were|can|could|will|would|should|must|does|did"
    # forms of `have` are negated only where they are auxiliaries: `has been`, not `has two`
    r"|(?:has|have|had)(?= not\b|n['\u2019]t\b| been\b| \w+ed\b))"
    r"(\s?not\b|n?['\u2019]t\b|\b(?!['\u2019]))"
)
"""A verb that `not` can follow (group 1), and its negation where it has one (group 2)."""
OPPOSITE_PAIRS = (
    "yes no,true false,always never,more less,more fewer,before after,increase decrease,"
    "increases decreases,increased decreased,increasing decreasing,high low,higher lower,"
    "highest lowest,largest smallest,larger smaller,positive negative,correct incorrect,"
    "possible impossible,valid invalid,equal unequal,up down,everyone nobody,"
    "everything nothing,above below,maximum minimum,legal illegal,safe unsafe,early late,"
    "earlier later,with without"
)


def _both_ways(pairs: str) -> dict[str, str]:
    """The opposite of each word; of a word in two pairs, that of the later pair."""
    opposites = dict[str, str]()
    for pair in pairs.split(","):
        first, second = pair.split()
        opposites[first] = second
        opposites[second] = first
    return opposites


OPPOSITES = _both_ways(OPPOSITE_PAIRS)
OPPOSITE = re.compile(rf"\b(?:{'|'.join(OPPOSITES)})\b", re.IGNORECASE)
MAX_REPLACEMENTS = 3
"""Replacements tried for one name or word."""
MAX_SHORT_NAME_WORDS = 4
"""A text of so many capitalised words, at most, and nothing else is one name."""


@dataclass(frozen=True)
class Vocabulary:
    """The names and words that an edit may put into a text."""

    names: Mapping[int, Sequence[str]]
    """Names in order of the alphabet, by their number of words."""
    words: Mapping[str, Sequence[str]]
    """Words in order of the alphabet, by shape."""


def collect_vocabulary(texts: Iterable[str]) -> Vocabulary:
    """The names and words of `texts`."""
    names_by_length = defaultdict[int, set[str]](set)
    distinct_words = set[str]()
    for text in texts:
        distinct_words.update(WORD.findall(text))
        for name in _names(text):
            names_by_length[len(name.split())].add(name)
    words_by_shape = defaultdict[str, set[str]](set)
    for word in distinct_words:
        words_by_shape[text_shape(word)].add(word)
    # sorted, because what is drawn from them must not depend on the order of a set
    return Vocabulary(
        names={length: sorted(names) for length, names in names_by_length.items()},
        words={shape: sorted(words) for shape, words in words_by_shape.items()},
    )


def perturb(text: str, vocabulary: Vocabulary, seed: str) -> Iterator[str]:
    """Distinct edited copies of `text`, best first, the same for the same seed.

    Another number, another name and a negation take turns; when these are used up, single words
    are swapped. Within a kind late places come first: that is where an answer has its result.
    """
    # the text itself is no edit
    yielded = {text}
    for edited in _edits(text, vocabulary, random.Random(seed)):
        if edited not in yielded:
            yielded.add(edited)
            yield edited


def _edits(text: str, vocabulary: Vocabulary, rng: random.Random) -> Iterator[str]:
    """Edited copies of `text`, best first; some may be equal."""
    # the kinds draw from one generator in turn: their order here is part of the result
    turns = itertools.zip_longest(
        _number_edits(text, rng), _name_edits(text, vocabulary, rng), _negations(text)
    )
    for turn in turns:
        for edited in turn:
            if edited is not None:
                yield edited
    yield from _word_swaps(text, vocabulary, rng)


def _number_edits(text: str, rng: random.Random) -> Iterator[str]:
    """Every number changed by little wherever it occurs, the one that occurs last first."""
    for number in _numbers_from_the_end(text):
        size = _step_size(number.digits)
        steps = [1, -1, 2, -2, 3, -3]
        rng.shuffle(steps)
        for step in steps:
            changed = number.digits + step * size
            if changed > 0:
                yield _replace_number(text, number, changed)


def _numbers_from_the_end(text: str) -> list[Number]:
    """The distinct numbers of a text but those that count a list, by their last place."""
    matches = [match for match in NUMBER.finditer(text) if not _is_list_number(text, match)]
    numbers = map(parse_number, reversed(matches))
    return list(dict.fromkeys(numbers))


def _step_size(digits: int) -> int:
    """The power of ten to change a number by: a round number stays round, 1900 becomes 2000.

    Two digits at least stay in front of the zeros that are kept: 5000 changes by hundreds.
    """
    written = str(digits)
    zeros = len(written) - len(written.rstrip("0"))
    kept_zeros = min(zeros, max(len(written) - 2, 0))
    return int(10**kept_zeros)


def _replace_number(text: str, number: Number, changed: int) -> str:
    """`text` with other digits for `number`, each time in the format it has there."""

    def replacement(match: re.Match[str]) -> str:
        if parse_number(match) != number or _is_list_number(text, match):
            return match[0]
        return _format_like(Number(changed, number.decimals), match)

    return NUMBER.sub(replacement, text)


def _is_list_number(text: str, match: re.Match[str]) -> bool:
    """The number counts the items of a list: `2. Stir.`."""
    line_start = text.rfind("\n", 0, match.start()) + 1
    starts_line = not text[line_start : match.start()].strip()
    return starts_line and text[match.end() : match.end() + 2] in (". ", ") ")


def _format_like(number: Number, match: re.Match[str]) -> str:
    """A number with the decimals, leading zeros and commas of the number that was matched."""
    groups = match.groupdict(default="")
    whole = groups["whole"]
    decimals = len(groups["decimals"] + groups["fraction"])
    # `007` keeps its width, and `.5` has no digit in front of the point
    has_fixed_width = whole.startswith("0") or not whole
    whole_width = len(whole) if has_fixed_width else 1
    digits = number.digits * 10 ** (decimals - number.decimals)
    written = str(digits).zfill(whole_width + decimals)
    point = len(written) - decimals
    before, after = written[:point], written[point:]
    if "," in whole:
        before = f"{int(before):,}"
    return f"{before}.{after}" if decimals else before


def _name_edits(text: str, vocabulary: Vocabulary, rng: random.Random) -> Iterator[str]:
    """Every name replaced by another of as many words wherever it occurs, late names first."""
    for name in dict.fromkeys(reversed(_names(text))):
        candidates = vocabulary.names.get(len(name.split()), ())
        # one more than are used, as the name itself may be drawn
        drawn = rng.sample(candidates, min(MAX_REPLACEMENTS + 1, len(candidates)))
        others = [candidate for candidate in drawn if candidate != name]
        for other in others[:MAX_REPLACEMENTS]:
            yield _replace_name(text, name, other)


def _replace_name(text: str, name: str, other: str) -> str:
    """`text` with `other` wherever `name` stands as a whole word."""
    return re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", lambda _: other, text)


def _names(text: str) -> list[str]:
    """Runs of capitalised words but those that start a sentence; a short run alone is a name."""
    if _is_one_name(text):
        return [text.strip()]
    names = list[str]()
    name_end = None
    for match in CAPITALISED.finditer(text):
        if not _is_capital(match[0]):
            continue
        if name_end is not None and text[name_end : match.start()] == " ":
            names[-1] += " " + match[0]
        elif _starts_sentence(text, match.start()):
            continue
        else:
            names.append(match[0])
        name_end = match.end()
    return names


def _is_one_name(text: str) -> bool:
    """The text is a few capitalised words and nothing else."""
    words = text.split()
    if not 0 < len(words) <= MAX_SHORT_NAME_WORDS:
        return False
    return all(CAPITALISED.fullmatch(word) and _is_capital(word) for word in words)


def _is_capital(word: str) -> bool:
    """Whether a word is written as names are: not `I`, not `I'm`, not an identifier."""
    if len(word) == 1 or not word[0].isupper():
        return False
    return "_" not in word and not word.startswith(("I'", "I\u2019"))


def _starts_sentence(text: str, start: int) -> bool:
    """Whether what precedes a word ends a sentence or a line, or is nothing."""
    before = text[max(0, start - 4) : start].rstrip(" \"'\u201c\u2018(*")
    return not before or before[-1] in ".!?:\n\t>-•"


def _negations(text: str) -> Iterator[str]:
    """A word turned into its opposite, or `not` put in or taken out after a verb, late first."""
    matches = [*OPPOSITE.finditer(text), *AUXILIARY.finditer(text)]
    # the sort is stable: of two matches at one place, the opposite goes first
    for match in sorted(matches, key=lambda match: -match.start()):
        if match.re is AUXILIARY:
            negation = "" if match[2] else " not"
            replacement = match[1] + negation
        elif _is_determiner(text, match):
            continue
        else:
            replacement = _cased_like(OPPOSITES[match[0].lower()], match[0])
        yield text[: match.start()] + replacement + text[match.end() :]


def _is_determiner(text: str, match: re.Match[str]) -> bool:
    """`no` before a noun has no opposite."""
    next_character = text[match.end() : match.end() + 1]
    return match[0].lower() in ("yes", "no") and next_character == " "


def _cased_like(word: str, example: str) -> str:
    """`word` in upper case, capitalised or as it is, as `example` is written."""
    if example.isupper():
        return word.upper()
    if example[0].isupper():
        return word.capitalize()
    return word


def _word_swaps(text: str, vocabulary: Vocabulary, rng: random.Random) -> Iterator[str]:
    """One word replaced by another of its shape and about its length.

    Late words come first, short lower-case ones (articles, prepositions) last.
    """
    late_first = reversed(list(WORD.finditer(text)))
    # a stable sort: all other words in the same order, then the short ones
    for match in sorted(late_first, key=lambda match: len(match[0]) < 4 and match[0].islower()):
        length = len(match[0])
        candidates = vocabulary.words.get(text_shape(match[0]), ())
        # several times as many as are used, to have some of about the same length
        drawn = rng.sample(candidates, min(4 * MAX_REPLACEMENTS, len(candidates)))
        same_length_first = sorted(drawn, key=lambda word: abs(len(word) - length))
        for other in same_length_first[:MAX_REPLACEMENTS]:
            yield text[: match.start()] + other + text[match.end() :]
