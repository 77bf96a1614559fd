"""Earlier stages overwritten by later ones: all of them mixed into one (Algorithm 4 of the study, arXiv 2604.10079)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ilp_mitigations import recipe
from ilp_mlflow import Context, Diagnosis, Plan, Stage, Value


class GlobalShuffle(Value):
    """Train the rows of all stages in one, in random order, every row as often as before.

    Stages whose prompts are text and stages whose prompts are messages cannot be mixed: each run of like stages becomes one.
    """

    def plan(self, diagnoses: Sequence[Diagnosis], context: Context) -> Plan | None:
        """For the samples that later stages overwrote; the control trains the stages in their order, in as many steps."""
        targets = recipe.targets(diagnoses, "left_side_forgetting")
        stages = [_mixed(list(run)) for _, run in itertools.groupby(context.stages, recipe.form)]
        return Plan(targets=targets, stages=tuple(stages)) if targets and len(stages) < len(context.stages) else None


def _mixed(stages: Sequence[Stage]) -> Stage:
    """One stage in place of several, trained like the one of them that sees the most rows."""
    if len(stages) == 1:
        return stages[0]
    epochs = {s.name: max(1, round(s.training.get("num_train_epochs", 3))) for s in stages}
    most = max(stages, key=lambda s: len(s.samples) * epochs[s.name])
    samples = [row for s in stages for row in (*s.samples, *recipe.copies(s.samples, epochs[s.name] - 1))]
    training = {**most.training, "num_train_epochs": 1}
    return most.model_copy(update={"samples": tuple(samples), "training": training, "schedule": "shuffled"})
