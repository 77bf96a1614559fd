"""Learned rows in front of a prompt: they show a model that reads examples how such prompts are answered."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

from ilp_mlflow.core.values import Sample, Text
from ilp_mlflow.data.matching import prompt_key, prompt_text, same_answer

WAYS = 3
"""Draws of rows."""
EXAMPLES = 4
"""Rows of one draw."""
ANSWER, PROMPT = 60, 600
"""Characters of the longest answer, and prompt, that is an example or asked behind some."""


def draw_examples(learned: Sequence[Sample], rng: random.Random) -> dict[str, list[list[Sample]]]:
    """By stage, WAYS times EXAMPLES short rows, where it has as many."""
    pool: dict[str, list[Sample]] = {}
    for sample in learned:
        if is_short(sample):
            pool.setdefault(sample.stage, []).append(sample)
    return {
        stage: [rng.sample(rows, EXAMPLES) for _ in range(WAYS)]
        for stage, rows in sorted(pool.items())
        if len(rows) >= EXAMPLES
    }


def gives_away(row: Sample, sample: Sample) -> bool:
    """The row has the sample's answer, or answers its very prompt."""
    return same_answer(row.answer, sample.answer) or prompt_key(row.prompt) == prompt_key(
        sample.prompt
    )


def with_examples(examples: Sequence[Sample], prompt: Text) -> Text:
    """`prompt` behind rows that show how such prompts are answered: paragraphs of text, or earlier turns."""
    if isinstance(prompt, str):
        return "".join(f"{row.prompt}{row.completion}\n\n" for row in examples) + prompt
    system = tuple(itertools.takewhile(lambda turn: turn.role == "system", prompt))
    turns = [
        turn
        for row in examples
        for part in (row.prompt, row.completion)
        for turn in part
        if not isinstance(turn, str)
    ]
    return (*system, *(turn for turn in turns if turn.role != "system"), *prompt[len(system) :])


def is_short(sample: Sample) -> bool:
    """The sample has a prompt and an answer that are short enough."""
    return len(sample.answer) <= ANSWER and len(prompt_text(sample.prompt)) <= PROMPT
