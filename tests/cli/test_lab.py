"""Options of `ilp lab` that do not fit together."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from ilp_mlflow.cli import main
from ilp_mlflow.cli.lab import WORLDS
from ilp_mlflow.core import config

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def test_every_world_has_an_experiment_of_its_own():
    for path in WORLDS.values():
        assert config.is_lab(config.read(path, {}))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([str(EXPERIMENTS / "smoke.yaml"), "--world", "smollm2"], "give one of them"),
        (["--model", "some/model"], "add --world smollm2"),
        ([str(EXPERIMENTS / "smoke.yaml"), "--model", "some/model"], "leave --model out"),
        (["--world", "smollm2", "--mitigate", "all"], "no texts for mitigations"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_line(options, said):
    result = CliRunner().invoke(main, ["lab", *options])
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert said in result.stderr
