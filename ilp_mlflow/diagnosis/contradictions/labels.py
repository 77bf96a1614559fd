"""Which answers are labels: few, shared by many rows, and told by what similar prompts are given.

Where rows are sorted into classes, another label for a similar prompt speaks against a row. Where
each row asks something of its own, as in reading, extraction or questions of fact, it does not.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.matching import answer_key
from ilp_mlflow.diagnosis.contradictions.neighbour_votes import Neighbours

MIN_LABEL_ROWS = 5
"""Rows of a stage with an answer from which it may be a label."""
MIN_LABELLED_SHARE = 0.5
"""Share 0..1 of a stage's rows that must have such an answer."""
NEAREST = 10
"""Most similar rows that are taken for a row's neighbours here."""
MIN_TOLD_SHARE = 0.3
"""Share 0..1 of the rows read with such answers whose neighbours have it for the most part."""


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
    """Share 0..1 of each stage's rows with an answer that recurs whose neighbours tell it."""
    told, rows = Counter[str](), Counter[str]()
    for sample, neighbours in read:
        answer = answer_key(sample.answer)
        if rows_by_answer[sample.stage][answer] >= MIN_LABEL_ROWS:
            rows[sample.stage] += 1
            told[sample.stage] += _usual_answer(neighbours[:NEAREST]) == answer
    return {stage: told[stage] / n for stage, n in rows.items()}


def _usual_answer(neighbours: Neighbours) -> str:
    """The answer for which the similarities of neighbours sum up to most; "" without any."""
    similarities: dict[str, float] = defaultdict(float)
    for row, similarity in neighbours:
        similarities[answer_key(row.answer)] += similarity
    return max(similarities, key=lambda answer: similarities[answer], default="")
