"""The belief that a base model's answers to several phrasings of a question show."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from ilp_mlflow.core.interfaces import Belief, GreedyAnswer
from ilp_mlflow.data.matching import answer_key, contains_answer, same_answer
from ilp_mlflow.diagnosis.beliefs.asking import CommonAnswer, Phrasing


def to_belief(
    answer: CommonAnswer, p_correct: float, correct: str, phrasings: Sequence[Phrasing]
) -> Belief | None:
    """The belief that an answer to `phrasings` shows.

    `p_correct` is the probability 0..1 of the right answer, `correct`. None where the answer was
    cut off before it differed from that.
    """
    prompts = tuple(phrasing.prompt for phrasing in phrasings)
    right = fmean(_says(one, correct) for one in answer.answers)
    if answer.is_majority and _says(answer, correct):
        p_correct = max(p_correct, answer.confidence)
        return Belief(p_correct, "", answer.confidence, prompts, agrees=True, right_share=right)
    if not answer.text:
        return Belief(p_correct, "", answer.confidence, prompts, right_share=right)
    # what follows might have been the rest of the right answer
    if not answer.ended and answer_key(correct).startswith(answer_key(answer.text)):
        return None
    if answer.text.casefold().startswith(correct.strip().casefold()):
        # the probability of `1` includes that of `10`, which is another answer
        p_correct = max(0.0, p_correct - answer.confidence)
    wrong = "" if same_answer(answer.text, correct) else answer.text
    return Belief(p_correct, wrong, answer.confidence, prompts, right_share=right)


def _says(answer: CommonAnswer | GreedyAnswer, correct: str) -> bool:
    """Whether an answer is the right one; one that was cut off need only contain it."""
    if not answer.text:
        return False
    if answer.ended:
        return same_answer(answer.text, correct)
    return contains_answer(answer.text, correct)
