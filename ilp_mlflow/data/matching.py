"""When two answers say the same, when one says merely more, and when two prompts ask the same.

An *answer* is what a completion says, as it is written; its *normalized* form is the words that
count; its *key* is equal for all answers that say the same.
"""

from __future__ import annotations

import functools
import re
import unicodedata

from ilp_mlflow.core.texts import Text, last_turn, with_last_turn
from ilp_mlflow.data.lexical import NUMBER, UNSPACED, plain_number

LABEL = re.compile(r"\s*[(\[]?([A-Ja-j0-9])[.):\]]\s+(?=\S)")
"""The label in front of an option: `A. `, `(b) `, `3: `."""
MARKS = (
    r".,;:!?\u2026\u00bf\u00a1\u3002\uff0c\u3001\uff1b\uff1a\uff01\uff1f\u061f\u060c\u061b"
    r"\"'`\u00b4\u2018-\u201f\u00ab\u00bb\u300c-\u300f"
)
"""Sentence punctuation and quotes of many scripts; operators and brackets mean something."""
PUNCTUATION = re.compile(rf"(?<=\d)([.,:])(?=\d)|[{MARKS}]")
"""Marks; those between digits are group 1, as they mean something: 3.5, 10:30."""
END_MARKS = re.compile(
    rf"^[{MARKS}]+|(?<!\d)(?<!\d!)[{MARKS}]+$"
    # 5! is not 5
    rf"|(?<=\d)[{MARKS.replace('!', '')}]+$"
)
"""Marks at the two ends of a prompt."""
HYPHEN = re.compile(r"(?<=[^\W\d])[-\u2010\u2011](?=[^\W\d])")
"""A hyphen between letters; anywhere else it may be a minus."""
GLUE = re.compile(r"(?<!\d) | (?!\d)")
"""Spaces but those between two digits: `ice cream` is `icecream`, `1 2` is not `12`."""
CURRENCY = re.compile(r"[$\u20ac\u00a3\u00a5](?=[\d.])")
ONLY_UNSPACED = re.compile(rf"[{UNSPACED}]+")
ARTICLE = re.compile(r"\b(?:a|an|the) (?=\S)")
NEGATIONS = frozenset({"not", "no", "non", "never", "without"})
MAX_EXCERPT = 120
"""Characters of an excerpt."""


@functools.lru_cache(maxsize=100_000)
def normalize_answer(answer: str) -> str:
    """The words of an answer in lower case, without label, sentence punctuation and articles.

    `B. The Ice-cream, 1,000.0 g!` is `ice cream 1000 g`. An answer that is nothing but such marks
    stays as it is, so that `!` and `?` differ.
    """
    # an accented letter may be one character or two
    text = unicodedata.normalize("NFC", without_label(answer)).casefold()
    # numbers go first: their commas and points are no punctuation
    text = NUMBER.sub(plain_number, text.replace("\N{MINUS SIGN}", "-"))
    text = PUNCTUATION.sub(r"\1", text)
    text = HYPHEN.sub(" ", text)
    normalized = ARTICLE.sub("", " ".join(text.split()))
    return normalized or "".join(answer.split())


def answer_key(answer: str) -> str:
    """Equal for answers that say the same, up to spacing: `B. Ice-cream.` and `the icecream`."""
    return GLUE.sub("", normalize_answer(answer))


def is_part_of(shorter: str, longer: str) -> bool:
    """Whether one normalized answer is a stretch of the words of another, currencies aside.

    `york` is a part of `new york`, but not of `yorkshire`. What is added must be no negation:
    `spam` is no part of `not spam`.
    """
    shorter, longer = CURRENCY.sub("", shorter), CURRENCY.sub("", longer)
    # without spaces there is nothing that says where a word ends
    if ONLY_UNSPACED.fullmatch(shorter):
        is_stretch = shorter in longer
    else:
        is_stretch = f" {shorter} " in f" {longer} "
    if not is_stretch:
        return False
    added_words = set(longer.split()) - set(shorter.split())
    return not NEGATIONS & added_words


def same_answer(answer: str, other: str) -> bool:
    """Whether two answers say the same, or one of them says merely more.

    `same_answer("Paris", "It is Paris.")` is true. Words are compared, not meanings:
    `same_answer("10", "ten")` is false.
    """
    return contains_answer(answer, other) or contains_answer(other, answer)


def contains_answer(longer: str, answer: str) -> bool:
    """Whether `longer` says what `answer` says, and perhaps more: not the other way round."""
    if answer_key(longer) == answer_key(answer):
        return True
    return is_part_of(normalize_answer(answer), normalize_answer(longer))


def with_answer(completion: Text, answer: str) -> Text:
    """`completion` with another answer; of a text, the white space in front of it stays."""
    if isinstance(completion, str):
        indent = completion[: len(completion) - len(completion.lstrip())]
        answer = indent + answer.strip()
    return with_last_turn(completion, answer)


def option_label(option: str) -> str:
    """The label in front of an option, `B` of `B. Paris`; "" where there is none."""
    label = LABEL.match(option)
    return label[1] if label else ""


def without_label(option: str) -> str:
    """An option without its label and without white space around: `Paris` of `B. Paris`."""
    label = LABEL.match(option)
    return option[label.end() :].strip() if label else option.strip()


def prompt_text(prompt: Text) -> str:
    """A prompt as one string; the turns of a conversation stand below each other."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(turn.text for turn in prompt.turns)


def excerpt(text: Text, max_length: int = MAX_EXCERPT) -> str:
    """The last turn of a prompt or completion in one line; what is longer ends with ` ...`."""
    line = " ".join(last_turn(text).split())
    return line if len(line) <= max_length else f"{line[:max_length]} ..."


def prompt_key(prompt: Text) -> str:
    """Equal for prompts that ask the same: the same turns up to case, spaces and marks at the ends.

    `Is it 5 ?` and `is it 5` have one key, `Is it 5!` has another. "" for a prompt without text.
    """
    if isinstance(prompt, str):
        turn_keys = [("", _turn_key(prompt))]
    else:
        turn_keys = [(turn.role, _turn_key(turn.text)) for turn in prompt.turns]
    if not any(key for _, key in turn_keys):
        return ""
    return "\n".join(f"{role}:{key}" for role, key in turn_keys)


def _turn_key(content: str) -> str:
    """The text of a turn without what does not count; a turn of nothing but marks keeps them."""
    squeezed = "".join(content.casefold().split())
    return END_MARKS.sub("", squeezed) or squeezed
