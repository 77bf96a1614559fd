"""The real lab again with one cause removed, in as few stages as that takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ilp_mlflow.core.config import Experiment, StageConfig
from ilp_mlflow.lab.real.data_files import RealLab, with_rows
from ilp_mlflow.lab.real.plant import rows_without
from ilp_mlflow.lab.real.rows import RealRow
from ilp_mlflow.lab.rows import Planted

MECHANICAL_OPTIONS = ("max_length", "dataloader_drop_last", "assistant_only_loss")
"""Options of a stage that keep rows from being trained."""
LONG_ENOUGH = {"num_train_epochs": 20, "learning_rate": 5.0e-4}
"""Options of the stage that stopped too early, once it does not: those of `early`."""
TRAINED: Mapping[str, tuple[str, ...]] = {
    "missing_knowledge": ("main",),
    "knowledge_conflict": ("main",),
    "data_contradiction": ("main",),
    "left_side_forgetting": ("main", "early"),
    "insufficient_optimization": ("main", "late"),
    "not_trained": ("patch",),
}
"""Stages that are trained again without a cause; of `insufficient_optimization` each by itself."""


@dataclass(frozen=True)
class Arm:
    """An experiment without a cause."""

    experiment: Experiment
    """Its stages begin at the checkpoint before them."""
    rows: tuple[RealRow, ...]
    """The rows of the group that it may have taught, as they stand in it."""


def arms(
    cause: str, experiment: Experiment, lab: RealLab, checkpoints: Mapping[str, str]
) -> list[Arm]:
    """The trainings that show whether a group is learned without its cause.

    `missing_knowledge`: known subjects in place of invented ones. `knowledge_conflict`: the right
    answers. `data_contradiction`: the rivals agree. `left_side_forgetting`: the stage is trained
    last. `insufficient_optimization`: rare kinds and labels as frequent as others, and the stage
    that stopped early as long as others. `not_trained`: the options that keep rows from being
    trained are left out. `checkpoints` are locations of what the experiment trained, by name.
    """
    planted = rows_without(cause, lab.planted)
    names = TRAINED[cause]
    if cause == "left_side_forgetting":
        # from the base: the order is turned
        return [_arm(cause, names, experiment, planted, experiment.model)]
    found = list[Arm]()
    stages = list(planted.stages)
    for name in names:
        number = stages.index(name)
        before = checkpoints[stages[number - 1]] if number else experiment.model
        found.append(_arm(cause, (name,), experiment, planted, before))
    return found


def _arm(
    cause: str,
    names: Sequence[str],
    experiment: Experiment,
    planted: Planted[RealRow],
    model: str,
) -> Arm:
    """The stages `names` in this order, from a model."""
    by_name = {stage.name: stage for stage in experiment.stages}
    stages = tuple(_changed(cause, by_name[name]) for name in names)
    title = f"{experiment.name}-without-{cause}-{names[-1]}"
    smaller = experiment.model_copy(
        update={"name": title, "model": model, "stages": stages, "mitigations": {}}
    )
    rows = list[RealRow]()
    for name in names:
        rows += [row for row in planted.stages[name] if row.group == cause]
    trained = replace(planted, stages={name: planted.stages[name] for name in names})
    return Arm(with_rows(smaller, trained, f"{title}-{experiment.seed}"), tuple(rows))


def _changed(cause: str, stage: StageConfig) -> StageConfig:
    """The stage with other options where a cause lies in these."""
    training = dict(stage.training)
    if cause == "not_trained":
        for option in MECHANICAL_OPTIONS:
            training.pop(option, None)
    if cause == "insufficient_optimization" and stage.name == "late":
        training |= LONG_ENOUGH
    return stage.model_copy(update={"training": training})
