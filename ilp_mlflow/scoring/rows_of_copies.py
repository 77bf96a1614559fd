"""Checkpoints that are copies trained no rows: theirs are those of what they were made from."""

from __future__ import annotations

from collections.abc import Sequence

from ilp_mlflow.core.config import Experiment
from ilp_mlflow.core.terminal.notes import say_once
from ilp_mlflow.core.values import Checkpoint, Stage
from ilp_mlflow.scoring.models.weight_facts import Copy


def give_rows_to_sources(
    experiment: Experiment, stages: Sequence[Stage], copies: Sequence[Copy]
) -> tuple[Experiment, list[Stage]]:
    """The experiment and its stages with the rows of every copy as rows of its source.

    Where both have rows, or the copy may be trained on, it keeps its own. What is changed is told.
    """
    configs, moved = list(experiment.stages), list(stages)
    for copy in copies:
        names = [stage.name for stage in moved]
        if copy.checkpoint not in names or copy.source in names or copy.may_be_trained:
            continue
        place = names.index(copy.checkpoint)
        say_once(
            f"{copy.checkpoint}: a copy of '{copy.source}', which no rows trained: the rows are "
            f"read as those of '{copy.source}'"
        )
        samples = []
        for sample in moved[place].samples:
            samples.append(sample.model_copy(update={"stage": copy.source}))
        update = {"name": copy.source, "samples": tuple(samples)}
        moved[place] = moved[place].model_copy(update=update)
        configs[place] = configs[place].model_copy(update={"name": copy.source})
    return experiment.model_copy(update={"stages": tuple(configs)}), moved


def stack_as_in_copies(
    checkpoints: Sequence[Checkpoint], copies: Sequence[Copy]
) -> list[Checkpoint]:
    """The checkpoints, each adapter on the one that a copy of it shows to be below it."""
    uri_of = {checkpoint.name: checkpoint.model_uri for checkpoint in checkpoints}
    for copy in copies:
        if copy.stacked_on:
            uri_of[copy.holds] = f"{uri_of[copy.stacked_on]}+{uri_of[copy.holds]}"
            say_once(
                f"{copy.holds}: its adapter is put on the one of '{copy.stacked_on}', as it is in "
                f"'{copy.checkpoint}'"
            )
    return [c.model_copy(update={"model_uri": uri_of[c.name]}) for c in checkpoints]
