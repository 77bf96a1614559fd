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
    """How much more readily the base gives a sample's answer to its prompt and to a row's, 0..1.

    Than to `strangers` unrelated prompts, as a share of how much it could; for each pair of a
    sample and a row the smaller of the two, as an answer that the base gives to only one of them
    tells nothing of the other. 0 where the base cannot be asked.
    """
    exchanges: list[tuple[Text, Text]] = []
    for sample, row in pairs:
        exchanges.append((sample.prompt, sample.completion))
        exchanges.append((row.prompt, with_answer(row.completion, sample.answer)))
    base = context.checkpoints[0].name
    logprobs = context.probe.logprobs(base, exchanges) if exchanges else []
    anyway = _probability_anyway([sample for sample, _ in pairs], context, strangers)
    alike = []
    for (sample, _), own, other in zip(pairs, logprobs[::2], logprobs[1::2], strict=True):
        is_told = not (math.isnan(own) or math.isnan(other))
        probability = math.exp(min(own, other, 0.0)) if is_told else 0.0
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
