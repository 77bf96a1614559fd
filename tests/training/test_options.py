"""Options of TRL and PEFT are checked before anything is trained."""

import pytest

from ilp_mlflow.core.errors import ConfigError
from ilp_mlflow.training.options import check_options


@pytest.mark.parametrize(
    ("options", "peft", "expected"),
    [
        ({"learning_rat": 1}, None, "did you mean 'learning_rate'?"),
        ({"packing": True}, None, "hides which samples"),
        ({"report_to": "wandb"}, None, "metrics go to MLflow"),
        ({"shuffle_dataset": True}, None, "the order is the stage's 'schedule'"),
        ({"model_init_kwargs": {"revision": "x"}}, None, "scoring would load another model"),
        ({"lr_scheduler_type": "no such"}, None, "SFTConfig refuses it"),
        ({}, {"rank": 3}, "unknown option of LoraConfig"),
        ({}, {"r": "four"}, "peft.r: expected int, got 'four'"),
        ({}, {"r": 0}, "must be above 0"),
        ({"num_train_epochs": "two"}, None, "num_train_epochs: expected float, got 'two'"),
        ({"num_train_epochs": 0}, None, "must be above 0, got 0"),
        ({"learning_rate": float("nan")}, None, "must be above 0, got nan"),
        ({"per_device_train_batch_size": 0}, None, "must be above 0"),
    ],
)
def test_bad_options_are_named_before_anything_is_trained(options, peft, expected):
    with pytest.raises(ConfigError, match=expected.replace("?", r"\?")):
        check_options("s", options, peft)


def test_saying_what_is_so_anyway_is_not_refused():
    check_options(
        "s",
        {"report_to": "none", "save_strategy": "no", "packing": False, "model_init_kwargs": None},
        None,
    )
