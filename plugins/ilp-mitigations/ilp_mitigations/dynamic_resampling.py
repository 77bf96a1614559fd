"""Stages that overwrite each other are mixed, and what is being lost is drawn more often.

Algorithm 4 of the study (Xue et al., arXiv 2604.10079).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from ilp_mitigations import recipe, rounds
from ilp_mlflow.plugin import (
    Batch,
    Context,
    Diagnosis,
    History,
    Mitigation,
    Plan,
    Round,
    SampleResult,
    Schedule,
    Stage,
)


class Resampled(Schedule):
    """Draws every subset at its own rate, and one whose accuracy fell more often until it is back.

    Within a subset, the samples seen least come first.
    """

    visits: dict[str, float]
    """How often each sample of a subset is to be seen, by subset."""
    every: int
    """Optimizer steps from one look at the subsets to the next."""
    drop: float
    """Fall below a subset's best accuracy so far that counts, share 0..1 of that."""
    factor: float
    """How many times as often a fallen subset is drawn."""
    looked_at: int
    """Samples of each subset that are looked at, at most."""

    def next_round(self, history: History) -> Sequence[Batch] | None:
        """The next `every` steps, so that by the end of training every sample has been seen."""
        members = _members_by_subset(history)
        rates = self._rates(members, history)
        per_step = history.batch_size * history.accumulation
        n = min(self.every, history.steps_left) * per_step
        visits = rounds.count_visits(history)
        rng = rounds.round_rng(history)
        # first as many unseen samples as the rounds after this one will not have room for
        unseen = [i for i in history.sample_ids if not visits[i]]
        room_later = max(0, history.steps_left * per_step - n)
        n_due = min(n, max(0, len(unseen) - room_later))
        due = rng.sample(unseen, n_due)
        visits.update(due)
        # the rest of the round by rate
        chosen = due + _draw_by_rate(members, rates, n - n_due, visits, rng)
        rng.shuffle(chosen)
        return [chosen[k : k + history.batch_size] for k in range(0, n, history.batch_size)]

    def _rates(self, members: Mapping[str, Sequence[str]], history: History) -> dict[str, float]:
        """How often each subset is to be drawn, relative to the others, by the model as it is."""
        looked_at: dict[str, list[str]] = {}
        ids_to_measure: list[str] = []
        for subset, ids in members.items():
            n = min(len(ids), self.looked_at)
            # the same samples in every round, so that accuracies can be compared
            looked_at[subset] = random.Random(subset).sample(ids, n)
            ids_to_measure += looked_at[subset]
        now = history.measure(ids_to_measure)
        rates = {}
        for subset, ids in members.items():
            rates[subset] = len(ids) * self.visits[subset]
            if self._has_fallen(looked_at[subset], history.rounds, now):
                rates[subset] *= self.factor
        return rates

    def _has_fallen(
        self,
        ids: Sequence[str],
        rounds_before: Sequence[Round],
        now: Mapping[str, SampleResult],
    ) -> bool:
        """Whether the accuracy of samples is more than `drop` below its best of all rounds."""
        if not rounds_before:
            return False
        # all earlier rounds measured these samples, too
        best = max(_token_accuracy(ids, done.measured) for done in rounds_before)
        return _token_accuracy(ids, now) < (1 - self.drop) * best


def _members_by_subset(history: History) -> dict[str, list[str]]:
    """Ids of the samples of each subset, in file order."""
    members: dict[str, list[str]] = {}
    for id_ in history.sample_ids:
        members.setdefault(history.subsets[id_], []).append(id_)
    return members


def _token_accuracy(ids: Sequence[str], results: Mapping[str, SampleResult]) -> float:
    """Mean token accuracy 0..1 of samples."""
    return sum(results[i].token_accuracy for i in ids) / len(ids)


def _draw_by_rate(
    members: Mapping[str, Sequence[str]],
    rates: Mapping[str, float],
    n: int,
    visits: Counter[str],
    rng: random.Random,
) -> list[str]:
    """`n` samples, the subsets in proportion to their rates, those seen least first."""
    total = sum(rates.values())
    exact: dict[str, float] = {}
    quotas: dict[str, int] = {}
    for subset, rate in rates.items():
        exact[subset] = n * rate / total
        quotas[subset] = int(exact[subset])
    # largest remainders: one more for the subsets that rounding down took most from
    by_remainder = sorted(exact, key=lambda subset: quotas[subset] - exact[subset])
    for subset in by_remainder[: n - sum(quotas.values())]:
        quotas[subset] += 1
    drawn: list[str] = []
    for subset, ids in members.items():
        drawn += rounds.draw_least_seen(ids, quotas[subset], visits, rng)
    return drawn


class DynamicResampling(Mitigation):
    """Train the rows of all stages in one, as many as before; those of a stage that is being
    forgotten are drawn more often.
    """

    prior: ClassVar[float] = 0.9
    """Net recovery 0..1 expected before any trial, from worlds of the lab (docs/results.md)."""

    every: int = Field(default=500, ge=1)
    """Optimizer steps from one look at the stages' samples to the next (the study's K)."""
    drop: float = Field(default=0.05, gt=0, lt=1)
    """Fall of a stage's accuracy below its best so far that counts, share 0..1 of that."""
    factor: float = Field(default=2, gt=1)
    """How many times as often the rows of a fallen stage are drawn."""
    looked_at: int = Field(default=200, ge=1)
    """Samples of each stage that are looked at, at most."""

    def plan(self, diagnoses: Sequence[Diagnosis], context: Context) -> Plan | None:
        """For samples that later stages overwrote.

        Its control trains the stages in their order, in as many optimizer steps.
        """
        targets = recipe.find_targets(diagnoses, "left_side_forgetting")
        return recipe.plan_mixed_stages(targets, context, self._mix)

    def _mix(self, stages: Sequence[Stage], training: Mapping[str, Any]) -> Stage:
        """One stage with every row once, drawn by the schedule as often as its own stage did."""
        rows = []
        visits = {}
        for stage in stages:
            for row in stage.samples:
                rows.append(row)
                # a subset is what first belonged to one stage: its rows keep that stage's name
                visits[row.stage] = stage.visits
        schedule = Resampled(
            visits=visits,
            every=self.every,
            drop=self.drop,
            factor=self.factor,
            looked_at=self.looked_at,
        )
        changes = {"samples": tuple(rows), "training": dict(training), "schedule": schedule}
        return recipe.busiest_stage(stages).model_copy(update=changes)
