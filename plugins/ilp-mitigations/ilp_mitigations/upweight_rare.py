"""Rows that got too little signal are trained more often.

Mostly teaches them by rote; for the rule behind them, see `augment_rare`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from ilp_mitigations import recipe
from ilp_mlflow.plugin import Context, Diagnosis, Mitigation, Plan, Sample


class UpweightRare(Mitigation):
    """Train the rows that got too little signal several times as often."""

    prior: ClassVar[float] = 0.65
    """Net recovery 0..1 expected before any trial, from worlds of the lab (docs/results.md)."""

    times: int = Field(default=10, ge=2)
    """How often each is in an epoch."""

    def plan(self, diagnoses: Sequence[Diagnosis], context: Context) -> Plan | None:
        """For these rows, from their first stage on; its control repeats as many learned rows."""
        targets = recipe.find_targets(diagnoses, "insufficient_optimization")
        if not targets:
            return None
        target_ids = set(targets)
        unlearned = recipe.unlearned_ids(diagnoses)
        more: dict[str, list[Sample]] = {}
        instead: dict[str, list[Sample]] = {}
        for stage in context.stages:
            rare = [row for row in stage.samples if row.id in target_ids]
            more[stage.name] = recipe.repeat_rows(rare, self.times - 1)
            n = len(more[stage.name])
            fits = functools.partial(context.fits, stage)
            # unlearned rows seen once more would make the control a mitigation
            instead[stage.name] = recipe.draw_rows(stage, n, fits, unlearned)
        return Plan(
            targets=targets,
            stages=recipe.add_rows(context.stages, more),
            control=recipe.add_rows(context.stages, instead),
        )
