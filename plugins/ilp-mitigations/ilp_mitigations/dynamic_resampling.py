"""Earlier stages overwritten by later ones: all mixed, and what is being lost drawn more often (Algorithm 4, arXiv 2604.10079)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from ilp_mitigations import recipe
from ilp_mlflow.plugin import Batch, Context, Diagnosis, History, Plan, SampleResult, Stage, Value


class Resampled(Value):
    """Draws every subset at its own rate, and one whose accuracy has fallen more often until it is back; the seldom seen first."""

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
        """The next `every` steps; none of the samples is left out in the end for one that is drawn more often."""
        members: dict[str, list[str]] = {}
        for id_ in history.sample_ids:
            members.setdefault(history.subsets[id_], []).append(id_)
        looked = {
            s: random.Random(s).sample(ids, min(len(ids), self.looked_at))
            for s, ids in members.items()
        }
        now = history.measure([i for ids in looked.values() for i in ids])
        fallen = [
            s
            for s, ids in looked.items()
            if self._fallen([r.measured for r in history.rounds], now, ids)
        ]
        per_step = history.batch_size * history.accumulation
        n = min(self.every, history.steps_left) * per_step
        seen = Counter(i for r in history.rounds for batch in r.batches for i in batch)
        rng = random.Random(f"{history.seed}/{len(history.rounds)}")
        # whoever would otherwise not be seen at all goes first
        unseen = [i for i in history.sample_ids if not seen[i]]
        spared = max(0, history.steps_left * per_step - n)
        first = rng.sample(unseen, min(n, max(0, len(unseen) - spared)))
        rates = {
            s: len(ids) * self.visits[s] * (self.factor if s in fallen else 1)
            for s, ids in members.items()
        }
        chosen = first + self._drawn(members, rates, n - len(first), seen + Counter(first), rng)
        rng.shuffle(chosen)
        return [chosen[k : k + history.batch_size] for k in range(0, n, history.batch_size)]

    def _fallen(
        self,
        before: Sequence[Mapping[str, SampleResult]],
        now: Mapping[str, SampleResult],
        ids: Sequence[str],
    ) -> bool:
        """Whether the mean token accuracy of a subset is more than `drop` below its best so far."""

        def accuracy(results: Mapping[str, SampleResult]) -> float:
            return sum(results[i].token_accuracy for i in ids) / len(ids)

        return bool(before) and accuracy(now) < (1 - self.drop) * max(map(accuracy, before))

    def _drawn(
        self,
        members: Mapping[str, list[str]],
        rates: Mapping[str, float],
        n: int,
        seen: Counter[str],
        rng: random.Random,
    ) -> list[str]:
        """`n` samples, the subsets in proportion to their rates, those seen least before the others."""
        exact = {s: n * rate / sum(rates.values()) for s, rate in rates.items()}
        quota = {s: int(share) for s, share in exact.items()}
        for s in sorted(exact, key=lambda s: quota[s] - exact[s])[: n - sum(quota.values())]:
            quota[s] += 1
        chosen = []
        for s, ids in members.items():
            order = sorted(ids, key=lambda i: (seen[i], rng.random()))
            chosen += [order[k % len(order)] for k in range(quota[s])]
        return chosen


class DynamicResampling(Value):
    """Train the rows of all stages in one, as many as before, and draw the rows of a stage more often that is being forgotten."""

    prior: ClassVar[float] = 0.9
    """Net recovery 0..1 to expect before anything was tried: about what it was on worlds of the lab (docs/results.md)."""

    every: int = Field(default=500, ge=1)
    """Optimizer steps from one look at the stages' samples to the next (the study's K)."""
    drop: float = Field(default=0.05, gt=0, lt=1)
    """Fall of a stage's accuracy below its best so far that counts, share 0..1 of that."""
    factor: float = Field(default=2, gt=1)
    """How many times as often the rows of a fallen stage are drawn."""
    looked_at: int = Field(default=200, ge=1)
    """Samples of each stage that are looked at, at most."""

    def plan(self, diagnoses: Sequence[Diagnosis], context: Context) -> Plan | None:
        """For the samples that later stages overwrote; the control trains the stages in their order, in as many steps."""
        targets = recipe.targets(diagnoses, "left_side_forgetting")
        return recipe.mixed(targets, context, self._mixed)

    def _mixed(self, stages: Sequence[Stage], training: Mapping[str, Any]) -> Stage:
        # a row keeps the name of the stage it first belonged to
        visits = {row.stage: s.visits for s in stages for row in s.samples}
        options = {
            "every": self.every,
            "drop": self.drop,
            "factor": self.factor,
            "looked_at": self.looked_at,
        }
        changes = {
            "samples": tuple(row for s in stages for row in s.samples),
            "training": dict(training),
            "schedule": Resampled(visits=visits, **options),
        }
        return recipe.busiest(stages).model_copy(update=changes)
