"""The lab again with one cause removed: are the rows learned once their cause is gone?"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ilp_mlflow import pipeline
from ilp_mlflow.core.config import Experiment, StageConfig
from ilp_mlflow.core.errors import ConfigError
from ilp_mlflow.lab import base_model, files
from ilp_mlflow.lab.benchmark import (
    RULE_GROUP,
    LabRun,
    by_group,
    first_and_last,
    reproduced,
    share,
)
from ilp_mlflow.lab.data_files import Lab
from ilp_mlflow.lab.plant import rows_without, world_without
from ilp_mlflow.lab.real import arms as real_arms
from ilp_mlflow.lab.real.data_files import RealLab
from ilp_mlflow.lab.rows import CAUSES, GROUPS, SHORT_QUESTIONS, Row
from ilp_mlflow.tracking import runs

MECHANICAL_OPTIONS = ("max_length", "dataloader_drop_last", "assistant_only_loss")
"""Options of a stage that keep rows from being trained."""
REPEATED_GROUPS = ("filler", "extra", "contradicting", "left_side_forgetting")
"""Groups of rows that the last stage repeats once they are all in one stage before it."""
MIN_MOVE = 0.15
"""Change of a group's learned share that counts as moved when another group's cause is removed."""


def counterfactuals(lab_run: LabRun, source: Path) -> dict[str, Any]:
    """The result of a lab run, with what each group learns when one cause is removed.

    That is its own cause and, as a check, every other. Every arm is an experiment of its own,
    `<name>-without-<cause>`, trained as any other. Raises ConfigError when the experiment has other
    stages than the lab, and IlpError.
    """
    experiment, lab, result = lab_run.experiment, lab_run.lab, lab_run.result
    planted_stages = list(lab.planted.stages)
    if [stage.name for stage in experiment.stages] != planted_stages:
        raise ConfigError(
            f"{source}: a cause can be removed from the stages {', '.join(planted_stages)} only; "
            "name them so, in this order"
        )
    started = time.perf_counter()
    # a copy: the result of the lab run stays as it is
    groups = copy.deepcopy(result["groups"])
    if isinstance(lab, Lab):
        arms = {cause: _train_without(cause, experiment, lab, source) for cause in CAUSES}
    else:
        arms = _train_real_arms(lab_run, lab, source)
    for cause in CAUSES:
        groups[cause]["learned_when_removed"] = arms[cause][cause]
    if lab.planted.unseen:
        groups[RULE_GROUP]["rule_when_removed"] = arms[RULE_GROUP]["rule"]
    seconds = result["seconds"] | {"counterfactuals": time.perf_counter() - started}
    return result | {
        "groups": groups,
        "removed": arms,
        "others": _moves_of_other_groups(groups, arms),
        "seconds": seconds,
    }


def _train_without(cause: str, experiment: Experiment, lab: Lab, source: Path) -> dict[str, float]:
    """Share 0..1 of each group (and of the unseen rows, `rule`) learned without a cause."""
    arm = without(cause, experiment, lab)
    run_id = pipeline.train(arm, source)
    checkpoints = runs.read_checkpoints(run_id)
    asked = [*lab.planted.samples, *lab.planted.unseen]
    learned = reproduced(asked, first_and_last(checkpoints), arm)
    shares = dict[str, float]()
    for group, rows in by_group(lab.planted.samples).items():
        shares[group] = share(learned, rows)
    shares["rule"] = share(learned, lab.planted.unseen)
    return shares


def _train_real_arms(lab_run: LabRun, lab: RealLab, source: Path) -> dict[str, dict[str, float]]:
    """Share 0..1 of each group of the real lab that is learned without its cause, by cause.

    Every row is asked for right behind the stage that may have taught it.
    """
    locations = {point.name: point.model_uri for point in lab_run.report.checkpoints}
    learned = dict[str, bool]()
    for arm in real_arms.arms(lab_run.experiment, lab, locations):
        run_id = pipeline.train(arm.experiment, source)
        for point in runs.read_checkpoints(run_id):
            rows = arm.rows.get(point.name, ())
            learned |= reproduced(rows, {point.name: point.model_uri}, arm.experiment)
    groups = by_group(lab.planted.samples)
    return {cause: {cause: share(learned, groups[cause])} for cause in CAUSES}


def _moves_of_other_groups(
    groups: Mapping[str, Mapping[str, float]], arms: Mapping[str, Mapping[str, float]]
) -> dict[str, int]:
    """How many groups moved when the cause of another one was removed, of how many."""
    cells = moved = 0
    for cause in CAUSES:
        for group in GROUPS:
            # the real lab asks for the group alone whose cause is removed
            if group == cause or group not in arms[cause]:
                continue
            # of a rule, what counts is whether it holds for people in no row: its rows are learned
            # by rote as soon as anything else is easier
            before = groups[group].get("rule", groups[group]["learned"])
            after = arms[cause]["rule" if group == RULE_GROUP else group]
            cells += 1
            moved += abs(after - before) > MIN_MOVE
    return {"cells": cells, "moved": moved}


def without(cause: str, experiment: Experiment, lab: Lab) -> Experiment:
    """The experiment (with paths of real files) with one cause removed and nothing else changed.

    `missing_knowledge`, `knowledge_conflict`: the base is told the fact, or the label.
    `data_contradiction`: the rows that outvote a sample agree with it. `left_side_forgetting`: the
    rows of all stages but the last are shuffled together, each as often as before, and the last
    repeats a sample of those. `insufficient_optimization`: distinct rows of the rule in place of as
    many control rows. `not_trained`: the options that keep rows from being trained are left out.
    """
    planted = rows_without(cause, lab.planted, lab.world)
    rows_by_stage = dict[str, Sequence[Row]](planted.stages)
    stages = list(experiment.stages)
    if cause == "left_side_forgetting":
        stages, rows_by_stage = _in_one_stage(stages, rows_by_stage, lab.seed)
    if cause == "not_trained":
        stages = [_without_mechanical_options(stage) for stage in stages]
    name = f"{experiment.name}-without-{cause}"
    # a folder of its own for each arm and seed: the files of the lab as planted stay
    records = dict[str, list[dict[str, Any]]]()
    for stage_name, rows in rows_by_stage.items():
        records[stage_name] = [row.record(stage_name) for row in rows]
    paths = files.write(records, f"{name}-{experiment.seed}")
    # another base only where the cause is one of its knowledge; else the one in the cache
    model = base_model.folder(world_without(cause, lab.planted, lab.world), lab.seed)
    located = [_with_data(stage, paths[f"{stage.name}.jsonl"]) for stage in stages]
    return experiment.model_copy(
        update={"name": name, "model": str(model), "stages": tuple(located), "mitigations": {}}
    )


def _in_one_stage(
    stages: Sequence[StageConfig], rows: Mapping[str, Sequence[Row]], seed: int
) -> tuple[list[StageConfig], dict[str, Sequence[Row]]]:
    """All stages but the last as one, with each row as often as it had epochs."""
    *early, last = stages
    # a row is copied for each of its epochs: every row is trained as often as before, and only the
    # order differs, which is what forgetting depends on. The trainer shuffles the stage
    together = list[Row]()
    for stage in early:
        for epoch in range(int(stage.training["num_train_epochs"])):
            together += [replace(row, id=f"{row.id}~{epoch}") for row in rows[stage.name]]
    # trained as `main`, the stage before the last and by far the largest
    merged = early[-1]
    training = merged.training | {"num_train_epochs": 1}
    repeating = _repeating(rows[last.name], together, seed)
    return (
        [merged.model_copy(update={"training": training}), last],
        {merged.name: together, last.name: repeating},
    )


def _repeating(patch: Sequence[Row], rows: Sequence[Row], seed: int) -> list[Row]:
    """The rows of the last stage, in which those that only repeat repeat a sample of `rows`."""
    eligible = list[Row]()
    for row in rows:
        # short questions, as in the plant: `max_length` of the last stage cuts long ones off
        if row.way in SHORT_QUESTIONS and row.group in REPEATED_GROUPS:
            eligible.append(row)
    n = sum(row.group not in GROUPS for row in patch)
    drawn = iter(random.Random(f"again {seed}").sample(eligible, n))
    repeating = list[Row]()
    for row in patch:
        if row.group in GROUPS:
            repeating.append(row)
        else:
            repeating.append(replace(next(drawn), id=f"{row.id}~again"))
    return repeating


def _without_mechanical_options(stage: StageConfig) -> StageConfig:
    training = dict(stage.training)
    for option in MECHANICAL_OPTIONS:
        training.pop(option, None)
    return stage.model_copy(update={"training": training})


def _with_data(stage: StageConfig, path: Path) -> StageConfig:
    return stage.model_copy(update={"data": stage.data.model_copy(update={"path": str(path)})})
