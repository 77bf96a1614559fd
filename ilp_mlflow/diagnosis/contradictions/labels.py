"""Which answers are labels: few, shared by many rows, and told by what similar prompts are given.

Where rows are sorted into classes, another label for a similar prompt speaks against a row. Where
each row asks something of its own, as in reading, extraction or questions of fact, it does not.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.matching import answer_key, is_part_of, normalize_answer, prompt_text
from ilp_mlflow.diagnosis.contradictions.neighbour_votes import Neighbours

MIN_LABEL_ROWS = 5
"""Rows of a stage with an answer from which it may be a label."""
MIN_LABELLED_SHARE = 0.5
"""Share 0..1 of a stage's rows that must have such an answer."""
NEAREST = 10
"""Most similar rows that are taken for a row's neighbours here."""
MIN_TOLD_SHARE = 0.3
"""Share 0..1 of the rows read with such answers whose neighbours tell it, beyond chance."""
LISTED_READ = 20
"""Prompts read for whether they list the labels."""
SURE = 2.0
"""Standard errors that are taken off what was measured."""


def labels_by_stage(
    rows: Sequence[Sample], read: Iterable[tuple[Sample, Neighbours]]
) -> dict[str, set[str]]:
    """The answers of each stage that are labels, by `matching.answer_key`.

    `read` are some of the rows, drawn at random, with those that share words with them, the most
    similar first. A stage has labels when most of its rows have an answer that recurs, and such
    answers can be told by the answers to similar prompts.
    """
    rows_by_answer: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        rows_by_answer[row.stage][answer_key(row.answer)] += 1
    told_by_stage = _told_shares(read, rows_by_answer)
    labels = {}
    for stage, counts in rows_by_answer.items():
        recurring = {answer for answer, n in counts.items() if n >= MIN_LABEL_ROWS}
        labelled = sum(counts[answer] for answer in recurring)
        is_labelled = labelled >= MIN_LABELLED_SHARE * counts.total()
        is_told = told_by_stage.get(stage, 0.0) >= MIN_TOLD_SHARE
        labels[stage] = recurring if is_labelled and is_told else set[str]()
    return labels


def _told_shares(
    read: Iterable[tuple[Sample, Neighbours]], rows_by_answer: Mapping[str, Counter[str]]
) -> dict[str, float]:
    """How often the neighbours of a row tell an answer that recurs, beyond chance, by stage.

    That is (s - c) / (1 - c) with c the chance that two rows have one answer (Cohen 1960), and s
    the share of rows whose neighbours have the row's answer for the most part, less SURE standard
    errors: that half of the rows agree says nothing where all say yes or no. Rows are left out
    whose answers are taken from their prompts.
    """
    read = list(read)
    listed = _listed_answers(read)
    told = Counter[str]()
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for sample, neighbours in read:
        answer = answer_key(sample.answer)
        is_recurring = rows_by_answer[sample.stage][answer] >= MIN_LABEL_ROWS
        # what is taken from the prompt is no label
        if is_recurring and (answer in listed or not is_in_prompt(sample.answer, sample)):
            answers[sample.stage][answer] += 1
            told[sample.stage] += _usual_answer(neighbours[:NEAREST]) == answer
    shares = {}
    for stage, counts in answers.items():
        n = counts.total()
        share = told[stage] / n
        chance = sum((count / n) ** 2 for count in counts.values())
        sure = share - SURE * math.sqrt(share * (1 - share) / n)
        shares[stage] = (sure - chance) / (1 - chance) if chance < 1 else 0.0
    return shares


def is_in_prompt(answer: str, sample: Sample) -> bool:
    """Whether a sample's prompt says an answer."""
    return is_part_of(normalize_answer(answer), normalize_answer(prompt_text(sample.prompt)))


def _listed_answers(read: Sequence[tuple[Sample, Neighbours]]) -> set[str]:
    """The answers that most prompts say, such as a list of labels to choose from."""
    drawn = [sample for sample, _ in read[:LISTED_READ]]
    listed = set[str]()
    for answer in {sample.answer for sample, _ in read}:
        if 2 * sum(is_in_prompt(answer, sample) for sample in drawn) > len(drawn):
            listed.add(answer_key(answer))
    return listed


def _usual_answer(neighbours: Neighbours) -> str:
    """The answer for which the similarities of neighbours sum up to most; "" without any."""
    similarities: dict[str, float] = defaultdict(float)
    for row, similarity in neighbours:
        similarities[answer_key(row.answer)] += similarity
    return max(similarities, key=lambda answer: similarities[answer], default="")
