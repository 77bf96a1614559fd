"""Rows that a training ends too early to see."""

import pytest

from ilp_mlflow.data.training_configs.setup import TrainingSetup
from ilp_mlflow.training.checks.passes import check_passes


@pytest.mark.parametrize(
    ("options", "unseen"),
    [
        ({"epochs": 0.5}, 32),
        ({"epochs": 0.51}, 24),
        ({"epochs": 1.0}, 0),
        ({"epochs": 0.9, "accumulation": 8}, 0),
        ({"max_steps": 4}, 32),
        ({"max_steps": 4, "accumulation": 2}, 0),
        ({"max_steps": 4, "packing": True}, 0),
    ],
)
def test_rows_behind_the_end_of_the_training_are_counted(options, unseen):
    findings = check_passes(64, TrainingSetup(**options))
    assert sum(finding.rows for finding in findings) == unseen
    for finding in findings:
        assert finding.sentence.startswith(f"{unseen} of 64 rows")
        assert finding.change
