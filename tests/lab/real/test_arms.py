"""What is trained again when a cause is removed."""

import json
from pathlib import Path

import pytest

from ilp_mlflow.lab.real.arms import MECHANICAL_OPTIONS, TRAINED, arms
from ilp_mlflow.lab.rows import CAUSES

CHECKPOINTS = {name: f"models:/{name}/1" for name in ("base", "early", "main", "patch", "late")}


def files(experiment):
    return {
        stage.name: [
            (record["prompt"], record["completion"])
            for record in map(json.loads, Path(stage.data.path).read_text("utf-8").splitlines())
        ]
        for stage in experiment.stages
    }


@pytest.mark.parametrize("cause", CAUSES)
def test_arms_begin_at_the_checkpoint_before_and_ask_for_their_group(resolved, cause):
    experiment, lab = resolved
    planted = files(experiment)
    asked = []
    for arm in arms(cause, experiment, lab, CHECKPOINTS):
        names = [stage.name for stage in arm.experiment.stages]
        assert set(names) <= set(TRAINED[cause])
        if cause == "left_side_forgetting":
            assert arm.experiment.model == experiment.model
            assert names == ["main", "early"]
            assert files(arm.experiment) == {name: planted[name] for name in names}
        else:
            order = list(CHECKPOINTS)
            assert arm.experiment.model == CHECKPOINTS[order[order.index(names[0]) - 1]]
        assert {row.group for row in arm.rows} == {cause}
        asked += [row.id for row in arm.rows]
    assert sorted(asked) == sorted(row.id for row in lab.planted.samples if row.group == cause)


def test_nothing_keeps_rows_from_being_trained_once_that_is_removed(resolved):
    experiment, lab = resolved
    (arm,) = arms("not_trained", experiment, lab, CHECKPOINTS)
    (stage,) = arm.experiment.stages
    assert not set(MECHANICAL_OPTIONS) & set(stage.training)
    planted = {stage.name: stage for stage in experiment.stages}["patch"]
    assert set(planted.training) - set(stage.training) == set(MECHANICAL_OPTIONS)
    assert stage.model_copy(update={"training": {}, "data": planted.data}) == planted.model_copy(
        update={"training": {}}
    )


def test_files_of_arms_leave_those_of_the_plant_alone(resolved):
    experiment, lab = resolved
    before = files(experiment)
    for cause in CAUSES:
        for arm in arms(cause, experiment, lab, CHECKPOINTS):
            changed = files(arm.experiment)
            if cause in ("missing_knowledge", "knowledge_conflict", "data_contradiction"):
                assert changed["main"] != before["main"]
    assert files(experiment) == before
