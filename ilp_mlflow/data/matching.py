"""When two answers say the same, or one says merely more, and when two prompts ask the same."""

from __future__ import annotations

import functools
import re
import unicodedata

from ilp_mlflow.core.values import Text, last_turn, with_last_turn
from ilp_mlflow.data.perturbations import NUMBER, UNSPACED, parse_number

LABEL = re.compile(r"\s*[(\[]?([A-Ja-j0-9])[.):\]]\s+(?=\S)")
MARKS = (  # sentence punctuation and quotes of many scripts; operators and brackets mean something
    r".,;:!?\u2026\u00bf\u00a1\u3002\uff0c\u3001\uff1b\uff1a\uff01\uff1f\u061f\u060c\u061b"
    r"\"'`\u00b4\u2018-\u201f\u00ab\u00bb\u300c-\u300f"
)
PUNCTUATION = re.compile(rf"(?<=\d)([.,:])(?=\d)|[{MARKS}]")
ENDS = re.compile(
    rf"^[{MARKS}]+|(?<!\d)(?<!\d!)[{MARKS}]+$|(?<=\d)[{MARKS.replace('!', '')}]+$"
)  # 5! is not 5
HYPHEN = re.compile(r"(?<=[^\W\d])[-\u2010\u2011](?=[^\W\d])")
GLUE = re.compile(r"(?<!\d) | (?!\d)")
CURRENCY = re.compile(r"[$\u20ac\u00a3\u00a5](?=[\d.])")
WITHOUT_SPACES = re.compile(rf"[{UNSPACED}]+")
ARTICLE = re.compile(r"\b(?:a|an|the) (?=\S)")
NEGATIONS = frozenset({"not", "no", "non", "never", "without"})


@functools.lru_cache(maxsize=100_000)
def normalize_answer(answer: str) -> str:
    """What `answer` says: its words in lower case without label, sentence punctuation and articles."""
    text = unicodedata.normalize("NFC", without_label(answer)).casefold().replace("\u2212", "-")
    text = HYPHEN.sub(" ", PUNCTUATION.sub(r"\1", NUMBER.sub(_value, text)))
    return ARTICLE.sub("", " ".join(text.split())) or "".join(answer.split())


def _value(match: re.Match[str]) -> str:
    value, decimals = parse_number(match)
    digits = str(value).zfill(decimals + 1)
    return digits[: len(digits) - decimals] + (
        "." + digits[len(digits) - decimals :] if decimals else ""
    )


def without_spacing(words: str) -> str:
    """`words` without the white space that tells nothing apart: equal for answers that say the same."""
    return GLUE.sub("", words)


def is_part_of(less: str, more: str) -> bool:
    """The words of `less`, currencies aside, are a stretch of those of `more`, which adds no negation."""
    less, more = CURRENCY.sub("", less), CURRENCY.sub("", more)
    stretch = less in more if WITHOUT_SPACES.fullmatch(less) else f" {less} " in f" {more} "
    return stretch and not NEGATIONS & ({*more.split()} - {*less.split()})


def answer_key(answer: str) -> str:
    """Equal for answers that say the same."""
    return without_spacing(normalize_answer(answer))


def same_answer(one: str, other: str) -> bool:
    """Two answers say the same, or one says merely more."""
    a, b = normalize_answer(one), normalize_answer(other)
    return without_spacing(a) == without_spacing(b) or is_part_of(a, b) or is_part_of(b, a)


def contains_answer(more: str, answer: str) -> bool:
    """`more` says what `answer` says, and perhaps more."""
    a, b = normalize_answer(answer), normalize_answer(more)
    return without_spacing(a) == without_spacing(b) or is_part_of(a, b)


def with_answer(completion: Text, answer: str) -> Text:
    """`completion` saying `answer` instead, with the white space that stands in front."""
    if isinstance(completion, str):
        answer = completion[: len(completion) - len(completion.lstrip())] + answer.strip()
    return with_last_turn(completion, answer)


def option_label(option: str) -> str:
    """The label in front of `option`, `B` of `B. Paris`; "" where there is none."""
    label = LABEL.match(option)
    return label[1] if label else ""


def without_label(option: str) -> str:
    """`option` without a label such as `B.` in front and white space around."""
    label = LABEL.match(option)
    return option[label.end() if label else 0 :].strip()


def prompt_text(prompt: Text) -> str:
    """The text of a prompt, of a conversation that of all its turns."""
    return prompt if isinstance(prompt, str) else "\n".join(turn.content for turn in prompt)


def excerpt(text: Text, most: int = 120) -> str:
    """The last turn of a prompt, or an answer, in one line of at most `most` characters."""
    line = " ".join(last_turn(text).split())
    return line if len(line) <= most else f"{line[:most]} ..."


def prompt_key(prompt: Text) -> str:
    """Equal for prompts, turn by turn, that differ in case, white space and punctuation at the ends only."""
    turns = (
        [("", prompt)]
        if isinstance(prompt, str)
        else [(turn.role, turn.content) for turn in prompt]
    )
    bare = [(role, "".join(text.casefold().split())) for role, text in turns]
    return (
        "\n".join(f"{role}:{ENDS.sub('', text) or text}" for role, text in bare)
        if any(text for _, text in bare)
        else ""
    )
