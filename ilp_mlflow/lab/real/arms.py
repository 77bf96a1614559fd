"""The real lab again without its causes, in as few stages as that takes."""

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
"""Options of the stage that stopped too early, once it does not: about those of `early`."""


@dataclass(frozen=True)
class Removal:
    """Causes that one training is without."""

    causes: tuple[str, ...]
    """Those whose rows it may have taught."""
    stages: tuple[str, ...]
    """What is trained, in this order; the first from the checkpoint before it."""
    from_base: bool = False
    """Whether it is trained from the base instead."""


REMOVALS = (
    # each of these changes rows of its own, so they do not need a training each
    Removal(("missing_knowledge", "knowledge_conflict", "data_contradiction"), ("main",)),
    # the order turned, around a stage with rare kinds that are frequent
    Removal(
        ("insufficient_optimization", "left_side_forgetting"), ("main", "early"), from_base=True
    ),
    Removal(("insufficient_optimization",), ("late",)),
    Removal(("not_trained",), ("patch",)),
)
"""All trainings that it takes to show that every group is learned without its cause."""


@dataclass(frozen=True)
class Arm:
    """An experiment without some causes."""

    experiment: Experiment
    """Its stages begin at the checkpoint before them, or at the base."""
    rows: Mapping[str, tuple[RealRow, ...]]
    """The rows of its causes that each stage may have taught, as they stand in it."""


def arms(experiment: Experiment, lab: RealLab, checkpoints: Mapping[str, str]) -> list[Arm]:
    """The trainings that show whether every group is learned without its cause.

    `missing_knowledge`: known subjects in place of invented ones. `knowledge_conflict`: the right
    answers. `data_contradiction`: the rivals agree. `left_side_forgetting`: the stage is trained
    last. `insufficient_optimization`: rare kinds and labels as frequent as others, and the stage
    that stopped early as long as others. `not_trained`: the options that keep rows from being
    trained are left out. `checkpoints` are locations of what the experiment trained, by name.
    """
    return [_arm(removal, experiment, lab.planted, checkpoints) for removal in REMOVALS]


def _arm(
    removal: Removal,
    experiment: Experiment,
    planted: Planted[RealRow],
    checkpoints: Mapping[str, str],
) -> Arm:
    """One training without the causes of a removal."""
    for cause in removal.causes:
        planted = rows_without(cause, planted)
    by_name = {stage.name: stage for stage in experiment.stages}
    stages = tuple(_changed(removal.causes, by_name[name]) for name in removal.stages)
    title = f"{experiment.name}-without-{'-'.join(removal.causes)}"
    model = experiment.model
    before = list(planted.stages).index(removal.stages[0]) - 1
    if before >= 0 and not removal.from_base:
        model = checkpoints[list(planted.stages)[before]]
    smaller = experiment.model_copy(
        update={"name": title, "model": model, "stages": stages, "mitigations": {}}
    )
    trained = replace(planted, stages={name: planted.stages[name] for name in removal.stages})
    located = with_rows(smaller, trained, f"{title}-{experiment.seed}")
    return Arm(located, _rows_of(removal.causes, trained))


def _rows_of(causes: Sequence[str], planted: Planted[RealRow]) -> dict[str, tuple[RealRow, ...]]:
    """The rows of some causes, by stage."""
    rows = dict[str, tuple[RealRow, ...]]()
    for name, of_stage in planted.stages.items():
        rows[name] = tuple(row for row in of_stage if row.group in causes)
    return rows


def _changed(causes: Sequence[str], stage: StageConfig) -> StageConfig:
    """The stage with other options where a cause lies in these."""
    training = dict(stage.training)
    if "not_trained" in causes:
        for option in MECHANICAL_OPTIONS:
            training.pop(option, None)
    if "insufficient_optimization" in causes and stage.name == "late":
        training |= LONG_ENOUGH
    return stage.model_copy(update={"training": training})
