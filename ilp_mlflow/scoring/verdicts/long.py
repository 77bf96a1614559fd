"""The rule for long answers without a check of their own: a cascade that asks only where it must.

Teacher forcing flatters a long answer: the right words so far hold the number that the model alone
would not find. So one pass settles two ends, and between them the model speaks for itself:

1. every token is the model's first choice: *reproduced*, learned;
2. training removed no more of the base's surprise than of rows it never saw: *not reached*,
   unlearned;
3. what it says by itself is compared with the row: contradicted is unlearned, the same is learned,
   anything else is *reached* and uncertain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field

from ilp_mlflow.core.values import Sample, Status
from ilp_mlflow.core.verdict_rules import AnswerTokens, Completion, Judged, ScoredRows, VerdictRule
from ilp_mlflow.data.said_otherwise import compare_answers

INFORMATIVE = float(np.log(0.5))
"""Log-probability below which the base did not expect a token, nats: there training has something
to remove."""
MIN_CONTROLS = 40
"""Rows that were never trained, at least, for a sample to be ranked among them."""
NOT_REACHED = 0.1
"""Conformal p above which a sample cannot be told from rows that were never trained."""
LENGTHS = 2
"""How many times its row's tokens a completion may have."""
NOT_SAID_BY_BASE = "a decisive word, or more than one word in twenty, is not its first choice"
Grade = Literal["reproduced", "reached", "not reached"]


class _Row(NamedTuple):
    """A sample on its way through the cascade."""

    status: Status
    margin: float
    reason: str
    grade: Grade | None


class Long(VerdictRule):
    """Learned is what the model says by itself: the row's answer, or the same in near words.

    Unlearned is what training did not reach, and what the model contradicts; anything else is
    uncertain. What training reached shows beside 40 held-out rows or more, which no stage trains.
    """

    needs_samples: ClassVar[bool] = True
    needs_controls: ClassVar[bool] = True

    generate: bool = True
    """Let the model speak where one pass leaves a row open; without, such rows are uncertain."""
    not_reached: float = Field(default=NOT_REACHED, gt=0, lt=1)
    """A row is not reached where more than this share of rows that were never trained is reached
    as far as it."""

    def judge(self, rows: ScoredRows) -> Judged:
        """Go through the cascade; the margin is the share of the base's surprise that is gone."""
        reach = _Reach.read(rows, self.not_reached)
        settled: dict[str, _Row] = {}
        open_ids = list[str]()
        records = rows.scores.select(["sample_id", "greedy", "tokens", "gap"]).to_pylist()
        for record in records:
            sample_id = record["sample_id"]
            if record["greedy"]:
                settled[sample_id] = _Row("learned", 1.0, "reproduced", "reproduced")
            elif (row := reach.not_reached(sample_id)) is not None:
                settled[sample_id] = row
            elif rows.is_base and record["gap"] <= 0:
                # nobody needs to hear how the base says it wrong
                settled[sample_id] = _Row("unlearned", 0.0, NOT_SAID_BY_BASE, None)
            else:
                open_ids.append(sample_id)
        tokens_by_id = {record["sample_id"]: record["tokens"] for record in records}
        settled.update(self._ask(rows, open_ids, tokens_by_id, reach))
        judged = [settled[record["sample_id"]] for record in records]
        return Judged(
            [row.status for row in judged],
            [row.margin for row in judged],
            [row.reason for row in judged],
            [row.grade for row in judged],
        )

    def _ask(
        self, rows: ScoredRows, ids: Sequence[str], tokens: Mapping[str, int], reach: _Reach
    ) -> dict[str, _Row]:
        """The rows that one pass leaves open, by what the model says of its own accord."""
        if not ids:
            return {}
        removed = reach.removed
        if not self.generate or rows.generate is None:
            why = "one pass does not tell whether the model says it by itself"
            return {i: _Row("uncertain", removed.get(i, np.nan), why, reach.grade(i)) for i in ids}
        samples = [rows.samples_by_id[i] for i in ids]
        limits = [LENGTHS * tokens[i] for i in ids]
        said = rows.generate(samples, limits)
        found = {}
        for sample, completions in zip(samples, said, strict=True):
            margin = removed.get(sample.id, np.nan)
            found[sample.id] = _compare(sample, completions, margin, reach.grade(sample.id))
        return found


class _Reach(NamedTuple):
    """How far training moved answers, against rows that it never saw."""

    removed: Mapping[str, float]
    """Share of the base's surprise that training removed, by sample id; below 0 it added some."""
    ranks: Mapping[str, float]
    """Conformal p of each: share of untrained rows that moved as far; none without controls."""
    limit: float
    """The p above which a sample is not reached."""

    @classmethod
    def read(cls, rows: ScoredRows, limit: float) -> _Reach:
        """Read it off the tokens of samples and controls; nothing moved yet under the base."""
        if rows.is_base:
            return cls({}, {}, limit)
        removed = removed_shares(rows.tokens(), rows.base_tokens())
        untrained = removed_shares(rows.controls(), rows.base_controls())
        by_source: dict[str, list[float]] = {}
        for control_id, share in untrained.items():
            by_source.setdefault(rows.control_sources.get(control_id, ""), []).append(share)
        everything = [share for shares in by_source.values() for share in shares]
        ranks = {}
        for sample_id, share in removed.items():
            source = rows.samples_by_id[sample_id].source or ""
            # rows of the same source are like the sample; where there are too few, all of them are
            likest = by_source.get(source, [])
            chosen = likest if len(likest) >= MIN_CONTROLS else everything
            if len(chosen) >= MIN_CONTROLS:
                ranks[sample_id] = conformal_p(share, chosen)
        return cls(removed, ranks, limit)

    def not_reached(self, sample_id: str) -> _Row | None:
        """The judgement of a sample that training did not reach; None for any other."""
        share = self.removed.get(sample_id)
        if share is None:
            return None
        p = self.ranks.get(sample_id)
        if p is not None and p > self.limit:
            reason = (
                f"training removed {share:.0%} of what the base did not expect of it, and as much "
                f"of {p:.0%} of rows that were never trained"
            )
            return _Row("unlearned", share, reason, "not reached")
        if p is None and share <= 0:
            reason = "training removed nothing of what the base did not expect of it"
            return _Row("unlearned", share, reason, "not reached")
        return None

    def grade(self, sample_id: str) -> Grade | None:
        """`reached`, where that is known."""
        return "reached" if sample_id in self.ranks else None


def removed_shares(
    tuned: Mapping[str, AnswerTokens], base: Mapping[str, AnswerTokens]
) -> dict[str, float]:
    """Share of the base's surprise that training removed, by sample id: 1 is all, below 0 it grew.

    r = 1 - NLL_tuned / NLL_base over the tokens that the base gave less than one half. Left out
    are samples of which the base expected every token.
    """
    shares = {}
    for sample_id, tokens in tuned.items():
        before = base.get(sample_id)
        if before is None:
            continue
        unexpected = before.logprobs < INFORMATIVE
        is_number = np.isfinite(before.logprobs).all() and np.isfinite(tokens.logprobs).all()
        if unexpected.any() and is_number:
            surprise = -before.logprobs[unexpected].sum(dtype=np.float64)
            left = -tokens.logprobs[unexpected].sum(dtype=np.float64)
            shares[sample_id] = float(1 - left / surprise)
    return shares


def conformal_p(share: float, untrained: Sequence[float]) -> float:
    """Share 0..1 of untrained rows, the sample itself counted in, that moved at least as far.

    The p-value of split conformal testing (Vovk et al. 2005, section 2.2): where the sample is
    like the untrained rows, it is below a with probability a at most.
    """
    as_far = sum(other >= share for other in untrained)
    return (1 + as_far) / (1 + len(untrained))


def _compare(
    sample: Sample, completions: Sequence[Completion], margin: float, grade: Grade | None
) -> _Row:
    """The judgement of a sample by what the model said."""
    if not completions:
        reason = "the prompt leaves the model no room to answer by itself"
        return _Row("uncertain", margin, reason, grade)
    said = completions[0]
    comparison = compare_answers(sample.answer, said.text, said.ended)
    if comparison.outcome == "contradicts":
        return _Row("unlearned", margin, comparison.reason, grade)
    if not said.ended:
        return _Row("uncertain", margin, "says it, or something else, and does not stop", grade)
    if comparison.outcome == "same":
        return _Row("learned", margin, comparison.reason, "reproduced")
    reached = "reached, but " if grade else ""
    reason = f"{reached}{comparison.reason}; a verifier would decide"
    return _Row("uncertain", margin, reason, grade)
