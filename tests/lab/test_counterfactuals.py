"""The lab with one cause removed in turn."""

from pathlib import Path

import pytest

from ilp_mlflow.core import config
from ilp_mlflow.data.samples import load_samples
from ilp_mlflow.lab import data_files
from ilp_mlflow.lab.counterfactuals import without

SMOKE = Path(__file__).parents[2] / "experiments" / "smoke.yaml"


@pytest.mark.slow
def test_without_a_cause_the_samples_stay(store):
    experiment = config.read(SMOKE)
    resolved, lab = data_files.resolve(experiment)
    before = {
        s.id.partition("~")[0]: s
        for stage in resolved.stages
        for s in load_samples(stage.name, stage.data)
    }
    for cause in (
        "data_contradiction",
        "left_side_forgetting",
        "insufficient_optimization",
        "not_trained",
    ):
        arm = without(cause, resolved, lab)
        assert arm.model == resolved.model
        after = {}
        for stage in arm.stages:
            for s in load_samples(stage.name, stage.data):
                after.setdefault(s.id.partition("~")[0], []).append(s)
        assert set(after) == set(before)
        for row in lab.planted.samples:
            assert {(s.prompt, s.completion) for s in after[row.id]} == {
                (before[row.id].prompt, before[row.id].completion)
            }
            if cause == "left_side_forgetting":
                times = {s.name: s.training["num_train_epochs"] for s in experiment.stages} | {
                    "patch": 1
                }
                again = sum(s.id.endswith("~again") for s in after[row.id])
                assert len(after[row.id]) - again == times[row.id.partition("-")[0]]
                assert (
                    again == 0 or row.group == cause
                )  # only what was forgotten is repeated with the rest
        mechanics = [
            o
            for stage in arm.stages
            for o in ("max_length", "dataloader_drop_last")
            if o in stage.training
        ]
        assert bool(mechanics) == (cause != "not_trained")
