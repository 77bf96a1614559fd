"""Earlier stages overwritten by later ones: all of them mixed into one (Algorithm 4 of the study, arXiv 2604.10079)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ilp_mitigations import recipe
from ilp_mlflow.plugin import Context, Diagnosis, Plan, Stage, Value


class GlobalShuffle(Value):
    """Train the rows of all stages in one, in random order, every row as often as before.

    Stages that cut or mask rows in other ways than those before cannot be mixed with them: each run of like stages becomes one.
    """

    prior: ClassVar[float] = 0.95
    """Net recovery 0..1 to expect before anything was tried: about what it was on worlds of the lab (docs/results.md)."""

    def plan(self, diagnoses: Sequence[Diagnosis], context: Context) -> Plan | None:
        """For the samples that later stages overwrote; the control trains the stages in their order, in as many steps."""
        targets = recipe.targets(diagnoses, "left_side_forgetting")
        return recipe.mixed(targets, context, self._mixed)

    def _mixed(self, stages: Sequence[Stage], training: Mapping[str, Any]) -> Stage:
        times = {s.name: max(1, round(s.visits)) for s in stages}
        samples = [
            row
            for s in stages
            for row in (*s.samples, *recipe.copies(s.samples, times[s.name] - 1))
        ]
        options = {"samples": tuple(samples), "training": dict(training), "schedule": "shuffled"}
        return recipe.busiest(stages).model_copy(update=options)
