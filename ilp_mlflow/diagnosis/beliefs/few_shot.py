"""Few-shot prompts: learned rows in front of a prompt show a base model the form of an answer."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Sequence

from ilp_mlflow.core.texts import Message, Text
from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.matching import prompt_key, prompt_text, same_answer

DRAWS_PER_STAGE = 3
"""Draws of examples from the learned rows of a stage."""
EXAMPLES_PER_DRAW = 4
"""Rows in front of one prompt."""
MAX_ANSWER_CHARACTERS = 60
"""Longest answer of an example, and of a sample that is asked with examples."""
MAX_PROMPT_CHARACTERS = 600
"""Longest prompt of an example, and of a sample that is asked with examples."""


def draw_examples(learned: Sequence[Sample], rng: random.Random) -> dict[str, list[list[Sample]]]:
    """Draw few-shot examples for every stage that has enough short rows.

    Returns DRAWS_PER_STAGE lists of EXAMPLES_PER_DRAW rows, by stage.
    """
    short_by_stage: dict[str, list[Sample]] = {}
    for sample in learned:
        if is_short(sample):
            short_by_stage.setdefault(sample.stage, []).append(sample)
    draws = {}
    # by name, so that the draws do not depend on which stage's row happens to come first
    for stage, rows in sorted(short_by_stage.items()):
        if len(rows) >= EXAMPLES_PER_DRAW:
            draws[stage] = [rng.sample(rows, EXAMPLES_PER_DRAW) for _ in range(DRAWS_PER_STAGE)]
    return draws


def is_short(sample: Sample) -> bool:
    """Whether a sample may be an example, or be asked with some: prompt and answer are short."""
    return (
        len(sample.answer) <= MAX_ANSWER_CHARACTERS
        and len(prompt_text(sample.prompt)) <= MAX_PROMPT_CHARACTERS
    )


def reveals_answer(example: Sample, sample: Sample) -> bool:
    """Whether an example has the sample's answer, or answers its very prompt."""
    same_prompt = prompt_key(example.prompt) == prompt_key(sample.prompt)
    return same_prompt or same_answer(example.answer, sample.answer)


def fair_draws(draws: Iterable[Sequence[Sample]], sample: Sample) -> list[Sequence[Sample]]:
    """The draws in which no example reveals the sample's answer."""
    fair = []
    for draw in draws:
        if not any(reveals_answer(example, sample) for example in draw):
            fair.append(draw)
    return fair


def few_shot_prompts(wordings: Sequence[Text], draws: Sequence[Sequence[Sample]]) -> list[Text]:
    """Put the wordings of a prompt behind the draws, so that each of both is used."""
    prompts = []
    # the shorter of the two lists starts again
    for i in range(max(len(wordings), len(draws))):
        prompts.append(with_examples(draws[i % len(draws)], wordings[i % len(wordings)]))
    return prompts


def with_examples(examples: Sequence[Sample], prompt: Text) -> Text:
    """Put examples in front of a prompt: as paragraphs of its text, or as earlier turns.

    A conversation keeps its own system turns and tools, and loses those of the examples.
    """
    if isinstance(prompt, str):
        text = ""
        for row in examples:
            text += f"{row.prompt}{row.completion}\n\n"
        return text + prompt
    system_turns = list(itertools.takewhile(lambda turn: turn.role == "system", prompt.turns))
    example_turns = list[Message]()
    for row in examples:
        example_turns += _turns(row.prompt) + _turns(row.completion)
    own_turns = prompt.turns[len(system_turns) :]
    return prompt.with_turns((*system_turns, *example_turns, *own_turns))


def _turns(text: Text) -> list[Message]:
    """The turns of a conversation but the system's; plain text has none."""
    if isinstance(text, str):
        return []
    return [turn for turn in text.turns if turn.role != "system"]
