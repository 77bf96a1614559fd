"""Rows that a training ends too early to see."""

from __future__ import annotations

from ilp_mlflow.data.training_configs.setup import TrainingSetup
from ilp_mlflow.training.checks.finding import CheckFinding, counted
from ilp_mlflow.training.checks.optimization import planned_steps


def check_passes(rows: int, setup: TrainingSetup) -> list[CheckFinding]:
    """What keeps the first pass over `rows` from its end: `max_steps`, or less than one epoch.

    Of rows that packing puts together it is not known how many are in a batch.
    """
    steps = None if setup.packing else planned_steps(setup, rows)
    if steps is None:
        return []
    per_step = setup.batch_size * setup.accumulation
    seen = steps * per_step
    if setup.max_steps > 0:
        option, change = f"max_steps {setup.max_steps}", f"raise it to {-(-rows // per_step)}"
    else:
        option, change = f"{setup.epochs:g} epochs", "train for 1 or more"
    unseen = rows - seen
    if unseen <= 0:
        return []
    return [
        CheckFinding(
            kind="rows_in_no_batch",
            severity="warning",
            sentence=f"{counted(unseen, rows)}: in no batch, on one device: {option} of "
            f"{per_step} rows a step ends the training before them",
            rows=unseen,
            share=unseen / rows,
            change=change,
        )
    ]
