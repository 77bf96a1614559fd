"""Prompts about one thing that the base answers alike ask the same."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from statistics import fmean

from ilp_mlflow.core.interfaces import Context
from ilp_mlflow.core.texts import Text
from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.matching import prompt_text, same_answer, with_answer

MAX_ANSWER_CHARS = 60
"""Characters of the longest answer the base is asked for: a longer one it never gives verbatim."""


def rows_about(entity: str, rows: Sequence[Sample]) -> list[Sample]:
    """Those of `rows` whose prompts name `entity`."""
    # Not \b: an entity may begin or end with a sign that is no word character.
    name = re.compile(rf"(?<!\w){re.escape(entity)}(?!\w)", re.IGNORECASE)
    return [row for row in rows if name.search(prompt_text(row.prompt))]


def answered_alike(
    pairs: Sequence[tuple[Sample, Sample]], context: Context, strangers: int
) -> list[float]:
    """How much more readily the base gives a sample's answer to another row's prompt, 0..1.

    Than to `strangers` unrelated prompts, as a share of how much it could; for each pair of a
    sample and a row. 0 where the base cannot be asked.
    """
    base = context.checkpoints[0].name
    exchanges = [(row.prompt, with_answer(row.completion, s.answer)) for s, row in pairs]
    logprobs = context.probe.logprobs(base, exchanges) if exchanges else []
    anyway = _probability_anyway([sample for sample, _ in pairs], context, strangers)
    alike = []
    for (sample, _), logprob in zip(pairs, logprobs, strict=True):
        probability = 0.0 if math.isnan(logprob) else math.exp(min(logprob, 0.0))
        alike.append(_share_above(probability, anyway[sample.answer.strip()]))
    return alike


def _probability_anyway(
    samples: Sequence[Sample], context: Context, strangers: int
) -> Mapping[str, float]:
    """Mean probability 0..1 of each sample's answer in the base, asked something unrelated.

    By answer, without white space around it; 0 where the base cannot be asked.
    """
    answers = sorted({sample.answer.strip() for sample in samples})
    rows = list(context.samples.values())
    # The same strangers whatever the seed: they are no part of the experiment.
    drawn = random.Random(len(rows)).sample(rows, min(strangers, len(rows)))
    asked = []
    exchanges: list[tuple[Text, Text]] = []
    for answer in answers:
        for row in drawn:
            if not same_answer(row.answer, answer):
                asked.append(answer)
                exchanges.append((row.prompt, with_answer(row.completion, answer)))
    logprobs = context.probe.logprobs(context.checkpoints[0].name, exchanges) if exchanges else []
    probabilities: dict[str, list[float]] = {answer: [] for answer in answers}
    for answer, logprob in zip(asked, logprobs, strict=True):
        if not math.isnan(logprob):
            probabilities[answer].append(math.exp(min(logprob, 0.0)))
    return {answer: fmean(read) if read else 0.0 for answer, read in probabilities.items()}


def _share_above(probability: float, anyway: float) -> float:
    """How far a probability 0..1 is above `anyway`, as a share 0..1 of how far it could be."""
    return max(0.0, (probability - anyway) / (1 - anyway)) if anyway < 1 else 0.0
