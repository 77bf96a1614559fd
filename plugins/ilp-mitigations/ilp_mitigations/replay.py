"""Rows of earlier stages are trained along with every later stage that would overwrite them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from ilp_mitigations import recipe
from ilp_mlflow.plugin import Context, Diagnosis, Mitigation, Plan, Sample, Stage


class Replay(Mitigation):
    """Keep the order of the stages, and mix rows of each earlier one into each.

    For where the first stages cannot be trained again.
    """

    prior: ClassVar[float] = 0.85
    """Net recovery 0..1 expected before any trial, from worlds of the lab (docs/results.md)."""

    share: float = Field(default=0.1, gt=0, lt=1)
    """Rows of earlier stages among those of a later one, share 0..1 of its own rows."""

    def plan(self, diagnoses: Sequence[Diagnosis], context: Context) -> Plan | None:
        """For samples that later stages overwrote, from the stage after the first of them on.

        Its control repeats as many of the stage's own rows instead. None where nothing is added.
        """
        targets = recipe.find_targets(diagnoses, "left_side_forgetting")
        overwritten = {context.samples[i].stage for i in targets}
        unlearned = recipe.unlearned_ids(diagnoses)
        replayed: dict[str, list[Sample]] = {}
        repeated: dict[str, list[Sample]] = {}
        earlier: list[Stage] = []
        for stage in context.stages:
            if any(before.name in overwritten for before in earlier):
                replayed[stage.name] = self._draw_earlier(earlier, stage, context)
                n = len(replayed[stage.name])
                fits = functools.partial(context.fits, stage)
                # unlearned rows seen once more would make the control a mitigation
                repeated[stage.name] = recipe.draw_rows(stage, n, fits, unlearned)
            earlier.append(stage)
        stages = recipe.add_rows(context.stages, replayed)
        if stages == tuple(context.stages):
            return None
        control = recipe.add_rows(context.stages, repeated)
        return Plan(targets=targets, stages=stages, control=control)

    def _draw_earlier(
        self, earlier: Sequence[Stage], stage: Stage, context: Context
    ) -> list[Sample]:
        """Copies of rows of the earlier stages, as many of each, for one more stage."""
        # the share is of the stage that is added to, split evenly between the earlier ones
        n = max(1, round(self.share * len(stage.samples) / len(earlier)))
        fits = functools.partial(context.fits, stage)
        rows = []
        for before in earlier:
            for row in recipe.draw_rows(before, n, fits):
                rows.append(recipe.with_id(row, f"{row.id}@{stage.name}"))
        return rows
