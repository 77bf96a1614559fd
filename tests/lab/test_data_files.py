import pytest

from ilp_mlflow.core import config
from ilp_mlflow.core.errors import ConfigError
from ilp_mlflow.lab import data_files


def experiment(tmp_path, model="lab:smoke/base", data="lab:smoke/early.jsonl"):
    path = tmp_path / "lab.yaml"
    path.write_text(f"name: lab\nmodel: {model}\nstages: [{{name: early, data: '{data}'}}]\n")
    return config.read(path)


def test_a_location_of_the_lab_is_no_path(tmp_path):
    read = experiment(tmp_path)
    assert (read.model, read.stages[0].data.path) == ("lab:smoke/base", "lab:smoke/early.jsonl")
    assert config.is_lab(read)


def test_an_unknown_size_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(ConfigError, match="no lab of size 'ful'; did you mean 'full'"):
        data_files.resolve(experiment(tmp_path, "lab:ful/base", "lab:ful/early.jsonl"))


def test_two_sizes_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="mixes the labs full and smoke"):
        data_files.resolve(experiment(tmp_path, "lab:full/base"))
