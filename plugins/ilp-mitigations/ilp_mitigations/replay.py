"""Earlier stages overwritten by later ones: a share of their rows trained along with every later stage."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from ilp_mitigations import recipe
from ilp_mlflow.plugin import Context, Diagnosis, Plan, Sample, Stage, Value


class Replay(Value):
    """Keep the order of the stages, and mix rows of each earlier one into each; for those who cannot train from the start."""

    prior: ClassVar[float] = 0.85
    """Net recovery 0..1 to expect before anything was tried: about what it was on worlds of the lab (docs/results.md)."""

    share: float = Field(default=0.1, gt=0, lt=1)
    """Rows of earlier stages among those of a later one, share 0..1 of its own rows."""

    def plan(self, diagnoses: Sequence[Diagnosis], context: Context) -> Plan | None:
        """For the samples that later stages overwrote, from the stage after the first of them; the control repeats rows instead."""
        targets = recipe.targets(diagnoses, "left_side_forgetting")
        first = {context.samples[i].stage for i in targets}
        unlearned = {d.verdict.sample_id for d in diagnoses}
        earlier, more, instead = list[Stage](), dict[str, list[Sample]](), dict[str, list[Sample]]()
        begun = False
        for stage in context.stages:
            if begun:
                n = max(1, round(self.share * len(stage.samples) / len(earlier)))
                fits = functools.partial(context.fits, stage)
                old = [row for before in earlier for row in recipe.drawn(before, n, fits)]
                more[stage.name] = [
                    s.model_copy(update={"id": f"{s.id}@{stage.name}"}) for s in old
                ]
                instead[stage.name] = recipe.drawn(stage, len(old), fits, unlearned)
            begun = begun or stage.name in first
            earlier.append(stage)
        remedy, control = (recipe.added(context.stages, rows) for rows in (more, instead))
        return (
            Plan(targets=targets, stages=remedy, control=control)
            if remedy != tuple(context.stages)
            else None
        )
