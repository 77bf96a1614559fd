import pytest

from ilp_mlflow.data.training_configs.setup import AdapterSetup, TrainingSetup
from ilp_mlflow.training.checks.optimization import check_optimization, planned_steps


def kinds(rows=100, **changes):
    return [finding.kind for finding in check_optimization(TrainingSetup(**changes), rows)]


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        # 3 passes over 100 rows in batches of 8 are 39 steps
        ({"warmup_steps": 39}, "warmup_too_long"),
        ({"warmup_steps": 10, "max_steps": 10}, "warmup_too_long"),
        ({"learning_rate": 1e-7}, "rate_too_low"),
        ({"learning_rate": 0.0}, "rate_too_low"),
        ({"learning_rate": 0.1}, "rate_too_high"),
        ({"adapter": AdapterSetup(scale=1e-4)}, "adapter_too_small"),
        ({"adapter": AdapterSetup(scale=0.0)}, "adapter_too_small"),
    ],
)
def test_what_keeps_a_training_from_getting_anywhere(changes, kind):
    assert kinds(**changes) == [kind]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"warmup_steps": 38},
        {"warmup_steps": 0.1},
        {"warmup_steps": 100, "packing": True},
        {"learning_rate": 2e-5},
        {"learning_rate": 5e-3, "adapter": AdapterSetup(scale=0.5)},
        {"learning_rate": 0.1, "optimizer": "sgd"},
        {"adapter": AdapterSetup()},
    ],
)
def test_usual_settings_are_none(changes):
    assert kinds(**changes) == []


def test_steps_are_those_of_passes_or_as_many_as_are_said():
    assert planned_steps(TrainingSetup(epochs=0.5, batch_size=4, accumulation=2), 100) == 7
    assert planned_steps(TrainingSetup(max_steps=5), 100) == 5
    assert planned_steps(TrainingSetup(packing=True), 100) is None
