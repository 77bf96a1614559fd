"""Stages that overwrite each other are mixed into one.

Algorithm 4 of the study (Xue et al., arXiv 2604.10079), its static form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ilp_mitigations import recipe
from ilp_mlflow.plugin import Context, Diagnosis, Mitigation, Plan, Sample, Stage


class GlobalShuffle(Mitigation):
    """Train the rows of all stages in one, in random order, every row as often as before.

    Stages that cut or mask rows in other ways than their neighbours are not mixed with them.
    """

    prior: ClassVar[float] = 0.95
    """Net recovery 0..1 expected before any trial, from worlds of the lab (docs/results.md)."""

    def plan(self, diagnoses: Sequence[Diagnosis], context: Context) -> Plan | None:
        """For samples that later stages overwrote.

        Its control trains the stages in their order, in as many optimizer steps.
        """
        targets = recipe.find_targets(diagnoses, "left_side_forgetting")
        return recipe.plan_mixed_stages(targets, context, self._mix)

    def _mix(self, stages: Sequence[Stage], training: Mapping[str, Any]) -> Stage:
        """One stage with every row as often as its own stage trained it, rounded."""
        rows: list[Sample] = []
        for stage in stages:
            # by copies, since the mixed stage sees each of its own rows about once
            passes = max(1, round(stage.visits))
            rows += stage.samples
            rows += recipe.repeat_rows(stage.samples, passes - 1)
        changes = {"samples": tuple(rows), "training": dict(training), "schedule": "shuffled"}
        return recipe.busiest_stage(stages).model_copy(update=changes)
