"""Other labels that the rows nearest to a sample speak for."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ilp_mlflow.core.interfaces import Context
from ilp_mlflow.core.texts import Text
from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.matching import answer_key, same_answer
from ilp_mlflow.data.similarity import similar_rows
from ilp_mlflow.diagnosis.contradictions.labels import is_in_prompt, labels_by_stage
from ilp_mlflow.diagnosis.contradictions.neighbour_votes import Neighbours, NeighbourVotes
from ilp_mlflow.diagnosis.contradictions.rivals import VOTES, Rival


class SimilarRows(NamedTuple):
    """The rows that share words with a sample."""

    sample: Sample
    """The sample."""
    rows: Neighbours
    """The rows with the cosine 0..1 of the words of the two prompts, largest first."""


class VoteOptions(NamedTuple):
    """How rows vote."""

    neighbours: int
    """Similar rows looked at."""
    nearest: int
    """Of these, the rows that vote."""
    compared: int
    """Rows of all that show how much near rows disagree anyway."""
    unlike: float
    """Share 0..1 of rows that may share fewer words with the nearest row of their own answer."""
    trust: Mapping[str, float]
    """What a row counts by its `source`, 1 where it is not given."""


def label_rivals(
    samples: Sequence[Sample], context: Context, options: VoteOptions
) -> dict[str, list[Rival]]:
    """Other labels than each sample's that the nearest rows speak for, by the sample's id.

    Samples whose answers are no labels are left out.
    """
    if not samples:
        return {}
    pool = list(context.samples.values())
    # how much near rows disagree anyway is read off rows drawn from all
    drawn = random.Random(len(pool)).sample(pool, min(options.compared, len(pool)))
    compared = find_similar(drawn, pool, options.neighbours)
    labels = labels_by_stage(pool, compared)
    labelled = [s for s in samples if answer_key(s.answer) in labels.get(s.stage, ())]
    if not labelled:
        return {}
    similar = find_similar(labelled, pool, options.neighbours)
    voters = nearest_voters([*compared, *similar], context, options.nearest)
    votes = NeighbourVotes(Counter(answer_key(row.answer) for row in pool), options.trust)
    calibrating = ((sample, voters[sample.id], rows) for sample, rows in compared)
    votes.calibrate(calibrating, options.unlike)
    rivals = {}
    for sample, rows in similar:
        near = voters[sample.id]
        against = votes.against(sample, near, rows)
        heard = labels[sample.stage] & against.keys()
        found = [_rival(sample, label, near, against[label]) for label in sorted(heard)]
        rivals[sample.id] = [rival for rival in found if not _is_of_another_text(rival)]
    return rivals


def find_similar(samples: Sequence[Sample], pool: Sequence[Sample], most: int) -> list[SimilarRows]:
    """Each sample with up to `most` other rows of `pool` that share words with it."""
    similar: list[SimilarRows] = []
    if not samples:
        return similar
    for sample, places in zip(samples, similar_rows(samples, pool, most, 0.0), strict=True):
        rows = [(pool[place], cosine) for place, cosine in places if pool[place].id != sample.id]
        similar.append(SimilarRows(sample, rows))
    return similar


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


def _is_of_another_text(rival: Rival) -> bool:
    """Whether a prompt says the sample's answer, and not the other one: that is said elsewhere."""
    sample, row = rival.sample, rival.rows[0]
    return is_in_prompt(sample.answer, sample) and not is_in_prompt(row.answer, sample)


def _rival(sample: Sample, label: str, voters: Neighbours, vote: float) -> Rival:
    """The rows among the voters with another label, and those with the sample's."""
    rows = [row for row, _ in voters if answer_key(row.answer) == label]
    agreeing = [row for row, _ in voters if same_answer(row.answer, sample.answer)]
    return Rival(sample, tuple(rows), tuple(agreeing), vote, VOTES)
