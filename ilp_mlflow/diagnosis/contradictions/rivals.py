"""Other answers to what may be a sample's question: the rows that give them, and how they rank."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ilp_mlflow.core.interfaces import Context
from ilp_mlflow.core.texts import Text
from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.matching import answer_key, prompt_key, prompt_text, same_answer
from ilp_mlflow.data.similarity import similar_rows
from ilp_mlflow.diagnosis.contradictions.neighbour_votes import Neighbours


# Compared by identity, as a key of mappings: samples hold values without a hash.
@dataclass(frozen=True, eq=False)
class Rival:
    """Another answer to what may be a sample's question."""

    sample: Sample
    """The sample."""
    rows: tuple[Sample, ...]
    """Those with the answer, the most similar prompt first."""
    agreeing: tuple[Sample, ...]
    """Similar rows with the sample's answer."""
    vote: float
    """How far the nearest rows speak for this answer, 0..1."""
    equal: bool
    """A row with it has the sample's very prompt."""


class SimilarRows(NamedTuple):
    """The rows that share words with a sample."""

    sample: Sample
    """The sample."""
    rows: Neighbours
    """The rows with the cosine 0..1 of the words of the two prompts, largest first."""


@dataclass(frozen=True)
class Neighbourhood:
    """The rows that may answer a sample's question."""

    sample: Sample
    """The sample."""
    equal: Sequence[Sample]
    """Other rows with its very prompt."""
    similar: Neighbours
    """Rows that share words with it."""
    voters: Neighbours
    """Those of them that vote; none where its prompt tells what it asks about."""
    votes: Mapping[str, float]
    """How far the voters speak for other answers than the sample's, 0..1, by `answer_key`."""


class GroupedRows(NamedTuple):
    """Rows by what they answer."""

    agreeing: list[Sample]
    """Those that say what the sample says, or merely more."""
    by_answer: dict[str, list[Sample]]
    """The others, by `answer_key`."""


def group_by_prompt(rows: Sequence[Sample]) -> dict[str, list[Sample]]:
    """Rows with equal prompts, by `prompt_key`; without empty prompts, which ask nothing."""
    rows_by_prompt: dict[str, list[Sample]] = {}
    for row in rows:
        key = prompt_key(row.prompt)
        if key:
            rows_by_prompt.setdefault(key, []).append(row)
    return rows_by_prompt


def find_similar(
    samples: Sequence[Sample], pool: Sequence[Sample], entities: Mapping[str, str], most: int
) -> list[SimilarRows]:
    """Each sample with the up to `most` rows of `pool` that share words with it, itself left out.

    Where `entities` tells, by id, what a sample asks about, only rows that name it are left.
    """
    neighbours = similar_rows(samples, pool, most, 0.0)
    similar = []
    for sample, places in zip(samples, neighbours, strict=True):
        rows = [(pool[place], cosine) for place, cosine in places if pool[place].id != sample.id]
        if entities.get(sample.id):
            rows = _about(entities[sample.id], sample, rows)
        similar.append(SimilarRows(sample, rows))
    return similar


def _about(
    entity: str, sample: Sample, rows: Sequence[tuple[Sample, float]]
) -> list[tuple[Sample, float]]:
    """Those of `rows` whose prompts name `entity`, or are the sample's."""
    # Not \b: an entity may begin or end with a sign that is no word character.
    name = re.compile(rf"(?<!\w){re.escape(entity)}(?!\w)", re.IGNORECASE)
    prompt = prompt_key(sample.prompt)
    about = []
    for row, cosine in rows:
        if name.search(prompt_text(row.prompt)) or prompt_key(row.prompt) == prompt:
            about.append((row, cosine))
    return about


def nearest_voters(
    similar: Sequence[SimilarRows], context: Context, most: int
) -> dict[str, Neighbours]:
    """The `most` nearest of each sample's rows, nearest first, by the sample's id.

    Near is the mean of two cosines: of the prompts' words, and of what the last checkpoint makes of
    the prompts (deep nearest neighbours, Bahri et al. 2020). It is the first alone where the
    checkpoint cannot be asked.
    """
    # Every prompt is read once, whomever it is near.
    places: dict[Text, int] = {}
    for sample, rows in similar:
        for prompt in (sample.prompt, *(row.prompt for row, _ in rows)):
            places.setdefault(prompt, len(places))
    if not places:
        return {}
    states = _centred_states(list(places), context)
    voters: dict[str, Neighbours] = {}
    for sample, rows in similar:
        # (rows, width) @ (width) -> (rows)
        row_states = states[[places[row.prompt] for row, _ in rows]]
        state_cosines = (row_states @ states[places[sample.prompt]]).tolist()
        neighbours = []
        for (row, word_cosine), state_cosine in zip(rows, state_cosines, strict=True):
            cosine = word_cosine
            if not math.isnan(state_cosine):
                cosine = max(0.0, (word_cosine + state_cosine) / 2)
            neighbours.append((row, cosine))
        neighbours.sort(key=lambda pair: -pair[1])
        voters[sample.id] = neighbours[:most]
    return voters


def _centred_states(prompts: Sequence[Text], context: Context) -> npt.NDArray[np.float32]:
    """What the last checkpoint makes of prompts: unit vectors (prompts, width), or nan."""
    last = context.checkpoints[-1].name
    states: npt.NDArray[np.float32] = np.asarray(context.probe.embed(last, prompts))
    is_read = ~np.isnan(states[:, 0])
    if is_read.any():
        # What all prompts have in common tells nothing.
        states = states - states[is_read].mean(axis=0)
    norms: npt.NDArray[np.float32] = np.linalg.norm(states, axis=1, keepdims=True) + 1e-9
    return states / norms


def rank_rivals(
    neighbourhood: Neighbourhood, min_cosine: float, most: int, equal_only: bool
) -> list[Rival]:
    """The up to `most` other answers that rank first; if `equal_only`, those to the very prompt.

    `min_cosine` is that of two prompts from which they may ask the same.
    """
    sample, votes = neighbourhood.sample, neighbourhood.votes
    equal_ids = {row.id for row in neighbourhood.equal}
    grouped = group_by_answer(sample, candidates(neighbourhood, min_cosine))
    rivals = []
    for answer in rank(grouped.by_answer, equal_ids, votes)[:most]:
        rows, agreeing = grouped.by_answer[answer], grouped.agreeing
        is_equal = rows[0].id in equal_ids
        if is_equal:
            # Rows with the very prompt decide alone: others may ask something else.
            rows = [row for row in rows if row.id in equal_ids]
            agreeing = [row for row in agreeing if row.id in equal_ids]
        if is_equal or not equal_only:
            rival = Rival(
                sample=sample,
                rows=tuple(rows),
                agreeing=tuple(agreeing),
                vote=votes.get(answer, 0.0),
                equal=is_equal,
            )
            rivals.append(rival)
    return rivals


def candidates(neighbourhood: Neighbourhood, min_cosine: float) -> list[Sample]:
    """The rows that may ask the same: with the very prompt, similar enough, or with a vote."""
    equal_ids = {row.id for row in neighbourhood.equal}
    heard_ids = set()
    for row, _ in neighbourhood.voters:
        if neighbourhood.votes.get(answer_key(row.answer)):
            heard_ids.add(row.id)
    rows = list(neighbourhood.equal)
    for row, cosine in neighbourhood.similar:
        if row.id not in equal_ids and (cosine >= min_cosine or row.id in heard_ids):
            rows.append(row)
    return rows


def group_by_answer(sample: Sample, rows: Sequence[Sample]) -> GroupedRows:
    """Rows by what they answer to the sample's question, in their order."""
    grouped = GroupedRows(agreeing=[], by_answer={})
    for row in rows:
        if same_answer(row.answer, sample.answer):
            grouped.agreeing.append(row)
        else:
            grouped.by_answer.setdefault(answer_key(row.answer), []).append(row)
    return grouped


def rank(
    rows_by_answer: Mapping[str, Sequence[Sample]],
    equal_ids: set[str],
    votes: Mapping[str, float],
) -> list[str]:
    """Answers in order: to the very prompt (`equal_ids`), by votes, by the number of rows."""

    def place(answer: str) -> tuple[bool, float, int]:
        rows = rows_by_answer[answer]
        # Rows with the very prompt come first among the candidates, and so in every group.
        is_equal = rows[0].id in equal_ids
        return not is_equal, -votes.get(answer, 0.0), -len(rows)

    return sorted(rows_by_answer, key=place)
