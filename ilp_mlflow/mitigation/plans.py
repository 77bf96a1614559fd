"""A mitigation's plan, checked, and what has to be trained of it and of its control."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ilp_mlflow.core.errors import PluginError
from ilp_mlflow.core.interfaces import Context, Mitigation
from ilp_mlflow.core.values import Checkpoint, Diagnosis, Plan, Request, Stage
from ilp_mlflow.data.samples import stage_digest

SEED_STEP = 1
"""Added to the seed of every stage that is trained again, for a plan and its control alike."""


@dataclass(frozen=True)
class Trial:
    """Stages to train from a checkpoint."""

    start: Checkpoint
    """The checkpoint to start from."""
    stages: tuple[Stage, ...]
    """What to train from there, in order."""

    @property
    def digest(self) -> str:
        """Name of what it trains, equal for equal trials."""
        parts = [self.start.model_uri, *(stage_digest(stage) for stage in self.stages)]
        return hashlib.sha256("".join(parts).encode()).hexdigest()


def checked_plan(
    name: str, plugin: Mitigation, diagnoses: Sequence[Diagnosis], context: Context
) -> Plan | Request | None:
    """What a mitigation plans.

    Raises PluginError for what is no plan, and for a plan with a target that is no sample of the
    experiment, without stages, with an empty stage or an id twice in one, or with a schedule that
    has no method `next_round`.
    """
    plan = plugin.plan(diagnoses, context)
    if plan is None:
        return None
    if not isinstance(plan, Plan | Request):
        raise PluginError(
            f"'{name}' must return a Plan, a Request or None, got {type(plan).__name__}"
        )
    strangers = set(plan.targets) - set(context.samples)
    if strangers:
        raise PluginError(
            f"'{name}' targets '{min(strangers)}', which is no sample of the experiment"
        )
    if isinstance(plan, Plan):
        if not plan.stages:
            raise PluginError(f"'{name}' plans no stages; return None when there is nothing to do")
        for stage in (*plan.stages, *(plan.control or ())):
            _check_stage(name, stage)
    return plan


def _check_stage(name: str, stage: Stage) -> None:
    """Raise PluginError for a planned stage that cannot be trained."""
    counts = Counter(row.id for row in (*stage.samples, *stage.validation))
    fault = ""
    if not stage.samples:
        fault = "no samples"
    elif max(counts.values()) > 1:
        fault = f"id '{counts.most_common(1)[0][0]}' twice"
    if fault:
        raise PluginError(
            f"'{name}' gives stage '{stage.name}' {fault}; "
            "ids are unique, and empty stages left out"
        )
    # a schedule need not derive from the base class
    has_method = callable(getattr(stage.schedule, "next_round", None))
    if not isinstance(stage.schedule, str) and not has_method:
        raise PluginError(
            f"'{name}' gives stage '{stage.name}' a schedule without a method 'next_round'"
        )


def plan_trials(name: str, plan: Plan, context: Context) -> tuple[Trial, Trial]:
    """A mitigation's plan and its control as trials.

    Both start from the last checkpoint up to which neither differs from the experiment, and so from
    the same. Raises PluginError when no stage is left for the control.
    """
    control = context.stages if plan.control is None else plan.control
    unchanged = min(
        count_unchanged(plan.stages, context.stages), count_unchanged(control, context.stages)
    )
    if unchanged == len(plan.stages) == len(context.stages):
        # nothing is changed: all of it again, which the other seed makes another training
        unchanged = 0
    if not control[unchanged:]:
        raise PluginError(
            f"'{name}' adds stages behind the last and gives no control; add one with as many steps"
        )
    start_name = context.stages[unchanged - 1].name if unchanged else "base"
    start = next(c for c in context.checkpoints if c.name == start_name)
    treatment = Trial(start, tuple(map(_reseed, plan.stages[unchanged:])))
    return treatment, Trial(start, tuple(map(_reseed, control[unchanged:])))


def _reseed(stage: Stage) -> Stage:
    """The stage with another seed, and no intermediate checkpoints."""
    # the same seed on the same rows would give the same model again
    training = {**stage.training, "seed": stage.training.get("seed", 0) + SEED_STEP}
    return stage.model_copy(update={"training": training, "score_every": None})


def count_unchanged(stages: Sequence[Stage], before: Sequence[Stage]) -> int:
    """How many stages at the beginning are the same in both: these are not trained again."""
    unchanged = 0
    for stage, old_stage in zip(stages, before, strict=False):
        if stage != old_stage:
            break
        unchanged += 1
    return unchanged
