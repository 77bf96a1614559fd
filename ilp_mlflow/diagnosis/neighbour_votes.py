"""The rows nearest to a sample vote on its answer."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.matching import answer_key, same_answer

Near = Sequence[tuple[Sample, float]]
"""Rows with how similar they are to a sample, the most similar first."""


class NeighbourVotes:
    """The rows nearest to a sample vote on its answer, and are heard as far as near rows agree with each other anyway.

    Of every answer it is counted which part of its rows are near, by their similarity and with one more that is as near as rows are
    on average: so a rare answer is not outvoted for being rare. How far they speak for another answer than the sample's is that
    one's share of the two parts, times the share of all rows against which their nearest do not speak as clearly (a conformal
    p-value, Vovk et al. 2005): where similar prompts are answered in a hundred ways, that one more differs says nothing. Nor do
    rows that share fewer words with the sample than all but a share `unlike` of rows share with the nearest of their own answer:
    they are about something else, whatever a model that fails on the sample makes of it.
    """

    def __init__(self, counts: Mapping[str, int], trust: Mapping[str, float]) -> None:
        """`counts` of rows by the gist of their answer; `trust` in a row by its source, 1 unless given."""
        self._counts, self._rows, self._trust = counts, sum(counts.values()), trust
        self._usual, self._least = list[float](), 0.0

    def compare(self, rows: Iterable[tuple[Sample, Near, Near]], unlike: float) -> None:
        """Take `rows` for what is usual, each with those that would vote on it and those that share words with it."""
        own = list[float]()
        for sample, voters, words in rows:
            self._usual.append(max(self._shares(sample, voters).values(), default=0.0))
            if self._counts[answer_key(sample.answer)] > 1:
                own.append(
                    next(
                        (
                            similar
                            for row, similar in words
                            if same_answer(row.answer, sample.answer)
                        ),
                        0.0,
                    )
                )
        self._usual.sort()
        self._least = sorted(own)[min(int(unlike * len(own)), len(own) - 1)] if own else 0.0

    def of(self, sample: Sample, voters: Near, words: Near) -> dict[str, float]:
        """How far `voters` speak for other answers than the sample's, 0..1, by gist; `words` are those that share words with it."""
        alike = {answer_key(row.answer) for row, similar in words if similar >= self._least}
        shares = self._shares(sample, voters).items()
        return {answer: share * self._unusual(share) for answer, share in shares if answer in alike}

    def _shares(self, sample: Sample, near: Near) -> dict[str, float]:
        weights, own = defaultdict[str, float](float), 0.0
        for row, similar in near:
            weight = similar * self._trust.get(row.source or "", 1.0)
            if same_answer(row.answer, sample.answer):
                own += weight
            else:
                weights[answer_key(row.answer)] += weight
        middle = (own + sum(weights.values())) / self._rows

        def near_share(weight: float, rows: int) -> float:
            return (weight + middle) / (rows + 1)

        ours = near_share(own, max(0, self._counts[answer_key(sample.answer)] - 1))
        theirs = {
            answer: near_share(weight, self._counts[answer])
            for answer, weight in weights.items()
            if weight
        }
        return {answer: share / (share + ours) for answer, share in theirs.items()}

    def _unusual(self, share: float) -> float:
        return bisect_left(self._usual, share) / max(1, len(self._usual))
