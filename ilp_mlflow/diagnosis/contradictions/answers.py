"""Whether two answers to one question are incompatible, as far as their words tell."""

from __future__ import annotations

from collections.abc import Container
from typing import Literal

from ilp_mlflow.core.texts import Text
from ilp_mlflow.data.matching import answer_key, normalize_answer, same_answer, without_label
from ilp_mlflow.data.question_words import ASKING_WORDS, prompt_words

MAX_ANSWER_CHARS = 60
"""Characters of the longest answer that is read: a longer one can be said in many ways."""
MAX_SHORT_WORDS = 3
"""Words of an answer that says one thing; of scripts without spaces, MAX_SHORT_CHARS."""
MAX_SHORT_CHARS = 24
"""Characters of the longest such answer, unless it is a name."""
SMALL_WORDS = frozenset(
    "i we you it they he she this these its his her their by to as because".split()  # noqa: SIM905
)
"""Words of sentences that say nothing of their own, beside those that only ask."""
END_OF_SENTENCE = (".", "!", "?")
SAME: Literal["same"] = "same"
DIFFERENT: Literal["different"] = "different"
UNTOLD: Literal["untold"] = "untold"
Comparison = Literal["same", "different", "untold"]
"""`same` holds where one answer says merely more, `untold` where words do not tell."""


def compare_answers(
    answer: str, other: str, prompt: Text, recurring: Container[str] = frozenset()
) -> Comparison:
    """Whether two answers to `prompt` say the same, or something else.

    Of short answers, names, numbers and the answers whose `answer_key` is in `recurring` (labels)
    words tell; of sentences, where all that they say beyond the prompt is one word each. What is
    longer or more open may be the same in other words: only a judge can tell.
    """
    if same_answer(answer, other):
        return SAME
    if max(len(answer.strip()), len(other.strip())) > MAX_ANSWER_CHARS:
        return UNTOLD
    if _is_one_thing(answer, recurring) and _is_one_thing(other, recurring):
        return DIFFERENT
    asked = set(prompt_words(prompt))
    said, other_said = _said(answer, asked), _said(other, asked)
    if len(said) == len(other_said) == 1 and said != other_said:
        return DIFFERENT
    return UNTOLD


def _is_one_thing(answer: str, recurring: Container[str]) -> bool:
    """Whether an answer is a label, a name, a number or a few words."""
    words = normalize_answer(answer).split()
    is_label = answer_key(answer) in recurring and not _is_sentence(answer)
    if is_label or _is_name(answer):
        return True
    return len(words) <= MAX_SHORT_WORDS and len(answer.strip()) <= MAX_SHORT_CHARS


def _is_sentence(answer: str) -> bool:
    """Whether an answer ends like a sentence, or somebody speaks of themselves, as in refusals."""
    words = normalize_answer(answer).split()
    return answer.rstrip().endswith(END_OF_SENTENCE) or "i" in words or "we" in words


def _is_name(answer: str) -> bool:
    """Whether all its words, but the small ones, are capitalised or numbers, on one line."""
    words = without_label(answer).split()
    telling = [word for word in words if word.casefold() not in ASKING_WORDS]
    if "\n" in answer.strip() or not telling:
        return False
    return all(word.strip("\"'([")[:1].isupper() or word[0].isdigit() for word in telling)


def _said(answer: str, asked: set[str]) -> set[str]:
    """The words of an answer that are neither the prompt's nor small."""
    return set(prompt_words(answer)) - asked - ASKING_WORDS - SMALL_WORDS
