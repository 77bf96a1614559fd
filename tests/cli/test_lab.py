import pytest

from ilp_mlflow.cli.lab import WORLDS
from ilp_mlflow.core import config
from tests.cli.commands import ilp


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--seed", "1", "--seeds", "1,2"], "--seed and --seeds: give one of them"),
        (["--mitigate", "some"], "--mitigate some: must be 'all' or 'auto'"),
        (["--seeds", "3,,5"], "--seeds 3,,5: a seed is missing; write them as 3,4,5"),
        (["--seeds", ","], "--seeds ,: a seed is missing"),
        (["--seed", "many"], "parameter seed: "),
        (["--world", "smollm2"], "--world smollm2: give one of them"),
        ([], "not a lab: nothing in it is located at 'lab:...'; leave it out for the lab's own"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_loaded(options, expected, experiment_file):
    code, out, err = ilp("lab", experiment_file, *options)
    assert (code, out) == (2, "")
    assert expected in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--model", "some/model"], "leave --model out, or add --world smollm2"),
        (["--world", "smollm2", "--mitigate", "all"], "no texts for mitigations to read"),
    ],
)
def test_what_does_not_fit_a_world_is_told_before_anything_is_loaded(options, expected):
    code, out, err = ilp("lab", *options)
    assert (code, out) == (2, "")
    assert expected in err
    assert err.count("\n") == 1


def test_every_world_has_an_experiment_of_its_own():
    for path in WORLDS.values():
        assert config.is_lab(config.read(path, {}))
