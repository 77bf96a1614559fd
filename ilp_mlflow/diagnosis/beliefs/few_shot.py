"""Few-shot prompts: solved questions of the same kind in front show a base what is asked for."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence

from ilp_mlflow.core.texts import Message, Text
from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.matching import answer_key, prompt_key, prompt_text, same_answer

SETS_PER_KIND = 4
"""Sets of examples that the questions of a kind share."""
SETS_PER_SAMPLE = 3
"""Sets behind which a sample is asked."""
EXAMPLES_PER_SET = 5
"""Rows in front of one prompt."""
ROWS_PER_KIND = 24
"""Solved rows of a kind from which its sets are drawn."""
ENOUGH_ROWS = 7
"""Solved rows of a kind from which rows of other kinds are no examples for it: three different sets
can be drawn, and of fewer most of a set is still of the kind."""
MAX_ANSWER_CHARACTERS = 60
"""Longest answer of an example, and of a sample that is asked with examples."""
MAX_PROMPT_CHARACTERS = 600
"""Longest prompt of an example, and of a sample that is asked with examples."""


def is_short(sample: Sample) -> bool:
    """Whether a sample may be an example, or be asked with some: prompt and answer are short."""
    return (
        len(sample.answer) <= MAX_ANSWER_CHARACTERS
        and len(prompt_text(sample.prompt)) <= MAX_PROMPT_CHARACTERS
    )


def draw_sets(rows: Sequence[Sample], n: int, rng: random.Random) -> list[list[Sample]]:
    """Draw up to `n` different sets of EXAMPLES_PER_SET rows, with as many answers as can be.

    Where rows share a few answers, half of these are in a set, so that for every answer some sets
    are without it.
    """
    if len(rows) < EXAMPLES_PER_SET:
        return []
    sets: dict[frozenset[str], list[Sample]] = {}
    for _ in range(2 * n):
        drawn = _draw_set(rows, rng)
        if len(drawn) == EXAMPLES_PER_SET and len(sets) < n:
            sets.setdefault(frozenset(row.id for row in drawn), drawn)
    return list(sets.values())


def _draw_set(rows: Sequence[Sample], rng: random.Random) -> list[Sample]:
    """One set; fewer rows where too few have one of the answers that were drawn."""
    answers = sorted({answer_key(row.answer) for row in rows})
    n_answers = EXAMPLES_PER_SET
    if len(rows) >= 2 * len(answers):
        n_answers = max(1, len(answers) // 2)
    drawn_answers = set(rng.sample(answers, min(n_answers, len(answers))))
    first, more = list[Sample](), list[Sample]()
    seen = set[str]()
    for row in rng.sample(rows, len(rows)):
        answer = answer_key(row.answer)
        if answer in seen:
            more.append(row)
        elif answer in drawn_answers:
            seen.add(answer)
            first.append(row)
    return [*first, *more][:EXAMPLES_PER_SET]


def reveals_answer(example: Sample, sample: Sample) -> bool:
    """Whether an example has the sample's answer, or answers its very prompt."""
    same_prompt = prompt_key(example.prompt) == prompt_key(sample.prompt)
    return same_prompt or same_answer(example.answer, sample.answer)


def fair_sets(
    sample: Sample, sets: Iterable[Sequence[Sample]], rows: Sequence[Sample], seed: int
) -> list[Sequence[Sample]]:
    """Up to SETS_PER_SAMPLE sets in which no example reveals the sample's answer.

    The first of `sets` that are so; where these are too few, others are drawn from `rows` for this
    sample alone.
    """
    fair = list[Sequence[Sample]]()
    for examples in sets:
        if not any(reveals_answer(example, sample) for example in examples):
            fair.append(examples)
    missing = SETS_PER_SAMPLE - len(fair)
    if missing > 0:
        others = [row for row in rows if not reveals_answer(row, sample)]
        fair += draw_sets(others, missing, random.Random(f"{seed} {sample.id}"))
    return fair[:SETS_PER_SAMPLE]


def behind_the_others(rows: Sequence[Sample]) -> Iterator[tuple[Sample, Sequence[Sample]]]:
    """Each row with up to EXAMPLES_PER_SET others that do not reveal its answer.

    One half of the rows is shown the first of the other half, so that they share what they read.
    Left out are rows with fewer than two such others.
    """
    for side in (0, 1):
        others = rows[1 - side :: 2]
        for row in rows[side::2]:
            fair = [example for example in others if not reveals_answer(example, row)]
            if len(fair) > 1:
                yield row, fair[:EXAMPLES_PER_SET]


def few_shot_prompts(wordings: Sequence[Text], sets: Sequence[Sequence[Sample]]) -> list[Text]:
    """Put the wordings of a prompt behind the sets, so that each of both is used."""
    prompts = []
    # the shorter of the two lists starts again
    for i in range(max(len(wordings), len(sets))):
        prompts.append(with_examples(sets[i % len(sets)], wordings[i % len(wordings)]))
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
