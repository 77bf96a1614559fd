"""Too little signal: the rows themselves more often. Mostly teaches them by rote; for the rule behind them, see `augment_rare`."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from ilp_mitigations import recipe
from ilp_mlflow.plugin import Context, Diagnosis, Plan, Sample, Value


class UpweightRare(Value):
    """Train the rows that got too little signal several times as often."""

    prior: ClassVar[float] = 0.65
    """Net recovery 0..1 to expect before anything was tried: about what it was on worlds of the lab (docs/results.md)."""

    times: int = Field(default=10, ge=2)
    """How often each is in an epoch."""

    def plan(self, diagnoses: Sequence[Diagnosis], context: Context) -> Plan | None:
        """For these rows, from their first stage on; the control trains as many other rows as often."""
        targets = recipe.targets(diagnoses, "insufficient_optimization")
        if not targets:
            return None
        barred = {d.verdict.sample_id for d in diagnoses}
        more, instead = dict[str, list[Sample]](), dict[str, list[Sample]]()
        for stage in context.stages:
            mine = [s for s in stage.samples if s.id in set(targets)]
            more[stage.name] = recipe.copies(mine, self.times - 1)
            instead[stage.name] = recipe.drawn(
                stage, len(more[stage.name]), functools.partial(context.fits, stage), barred
            )
        return Plan(
            targets=targets,
            stages=recipe.added(context.stages, more),
            control=recipe.added(context.stages, instead),
        )
