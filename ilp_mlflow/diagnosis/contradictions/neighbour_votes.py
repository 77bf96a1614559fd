"""The rows nearest to a sample vote on its answer."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.matching import answer_key, same_answer

Neighbours = Sequence[tuple[Sample, float]]
"""Rows with their similarity 0..1 to a sample, the most similar first."""


class NeighbourVotes:
    """How clearly the rows nearest to a sample speak for another answer than its own.

    An answer's weight is (w + m) / (n + 1): w the summed similarity of the nearest rows that have
    it, n the number of all rows that do, and m the summed similarity of all the nearest rows over
    the number of all rows. That is the part of its rows that is near, with one more that is as
    near as rows are on average, so that a rare answer is not outvoted for being rare.

    The vote for another answer is its weight over the sum of that and the weight of the sample's
    own, times the share of all rows whose nearest speak less clearly (a conformal p-value, Vovk
    et al. 2005): where similar prompts are answered in a hundred ways, that one more differs says
    nothing.
    """

    def __init__(self, answer_counts: Mapping[str, int], trust: Mapping[str, float]) -> None:
        """Count rows per answer, by `matching.answer_key`; trust rows by their source, else 1."""
        self._answer_counts = answer_counts
        self._rows = sum(answer_counts.values())
        self._trust = trust
        # until `calibrate`, no vote is unusual and every row is heard
        self._usual_shares: list[float] = []
        self._min_similarity = 0.0

    def calibrate(
        self, rows: Iterable[tuple[Sample, Neighbours, Neighbours]], unlike: float
    ) -> None:
        """Learn from `rows` how much neighbours disagree anyway, before the first vote.

        Each row comes with the neighbours that would vote on it and with those that share words
        with it. A share `unlike` 0..1 of the rows may be less similar in words to the nearest row
        with their own answer than any row that is heard later: what shares fewer words is about
        something else, however near a model sees it that fails on the sample.
        """
        own_similarities = []
        for sample, voters, word_neighbours in rows:
            shares = self._shares(sample, voters)
            self._usual_shares.append(max(shares.values(), default=0.0))
            # the only row with its answer says nothing about how near such rows are
            if self._answer_counts[answer_key(sample.answer)] > 1:
                own_similarities.append(_own_similarity(sample, word_neighbours))
        self._usual_shares.sort()
        if own_similarities:
            own_similarities.sort()
            place = int(unlike * len(own_similarities))
            self._min_similarity = own_similarities[min(place, len(own_similarities) - 1)]

    def against(
        self, sample: Sample, voters: Neighbours, word_neighbours: Neighbours
    ) -> dict[str, float]:
        """How clearly the voters speak for other answers than the sample's, 0..1, by answer key.

        Only answers of rows that share enough words with the sample are heard.
        """
        heard = set()
        for row, similarity in word_neighbours:
            if similarity >= self._min_similarity:
                heard.add(answer_key(row.answer))
        votes = {}
        for answer, share in self._shares(sample, voters).items():
            if answer in heard:
                votes[answer] = share * self._unusual(share)
        return votes

    def _shares(self, sample: Sample, neighbours: Neighbours) -> dict[str, float]:
        """The weight of each other answer over the sum of that and the weight of the sample's."""
        own_similarity = 0.0
        similarities = defaultdict[str, float](float)
        for row, similarity in neighbours:
            trusted = similarity * self._trust.get(row.source or "", 1.0)
            if same_answer(row.answer, sample.answer):
                own_similarity += trusted
            else:
                similarities[answer_key(row.answer)] += trusted
        average = (own_similarity + sum(similarities.values())) / self._rows
        # the sample itself is a row with its answer, and no neighbour
        own_rows = max(0, self._answer_counts[answer_key(sample.answer)] - 1)
        own_weight = (own_similarity + average) / (own_rows + 1)
        shares = {}
        for answer, similarity in similarities.items():
            if similarity:
                weight = (similarity + average) / (self._answer_counts[answer] + 1)
                shares[answer] = weight / (weight + own_weight)
        return shares

    def _unusual(self, share: float) -> float:
        """Share 0..1 of the rows seen by `calibrate` whose neighbours speak less clearly."""
        return bisect_left(self._usual_shares, share) / max(1, len(self._usual_shares))


def _own_similarity(sample: Sample, neighbours: Neighbours) -> float:
    """Similarity 0..1 of the nearest row with the sample's answer; 0 where there is none."""
    for row, similarity in neighbours:
        if same_answer(row.answer, sample.answer):
            return similarity
    return 0.0
