"""What is trained again when a cause is removed."""

import json
from collections import Counter
from pathlib import Path

from ilp_mlflow.lab.real.arms import MECHANICAL_OPTIONS, REMOVALS, arms
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


def test_all_rows_of_causes_are_asked_for_once_behind_the_stage_that_teaches_them(resolved):
    experiment, lab = resolved
    asked = Counter()
    for arm in arms(experiment, lab, CHECKPOINTS):
        assert list(arm.rows) == [stage.name for stage in arm.experiment.stages]
        for stage, rows in arm.rows.items():
            asked.update(row.id for row in rows)
            # as the row stands in the file that is trained
            trained = dict(files(arm.experiment)[stage]) if stage != "patch" else {}
            for row in rows:
                assert trained.get(row.prompt, f" {row.answer}") == f" {row.answer}"
    planted = [row.id for row in lab.planted.samples if row.group in CAUSES]
    assert asked == Counter(planted)


def test_arms_begin_at_the_checkpoint_before_unless_the_order_is_turned(resolved):
    experiment, lab = resolved
    order = list(CHECKPOINTS)
    for removal, arm in zip(REMOVALS, arms(experiment, lab, CHECKPOINTS), strict=True):
        names = [stage.name for stage in arm.experiment.stages]
        assert names == list(removal.stages)
        if "left_side_forgetting" in removal.causes:
            assert arm.experiment.model == experiment.model
            assert names.index("main") < names.index("early")
            assert files(arm.experiment)["early"] == files(experiment)["early"]
        else:
            assert arm.experiment.model == CHECKPOINTS[order[order.index(names[0]) - 1]]


def test_an_arm_changes_rows_of_its_own_causes_and_no_others(resolved):
    experiment, lab = resolved
    planted = {row.id: row for row in lab.planted.rows}
    stand_ins = {"data_contradiction": "rival", "insufficient_optimization": "extra"}
    for removal, arm in zip(REMOVALS, arms(experiment, lab, CHECKPOINTS), strict=True):
        may_change = {stand_ins.get(cause, cause) for cause in removal.causes}
        for stage, rows in files(arm.experiment).items():
            before = files(experiment)[stage]
            ids = [row.id for row in lab.planted.stages[stage]]
            for id_, old, new in zip(ids, before, rows, strict=True):
                assert old == new or planted[id_].group in may_change


def test_nothing_keeps_rows_from_being_trained_once_that_is_removed(resolved):
    experiment, lab = resolved
    *_, arm = arms(experiment, lab, CHECKPOINTS)
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
    changed = [files(arm.experiment) for arm in arms(experiment, lab, CHECKPOINTS)]
    assert all(of_arm["main"] != before["main"] for of_arm in changed if "main" in of_arm)
    assert files(experiment) == before
