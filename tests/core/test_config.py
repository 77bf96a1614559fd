import pytest

from ilp_mlflow.core.config import DataConfig, dump, parse, read
from ilp_mlflow.core.errors import ConfigError
from tests.conftest import edit_yaml


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: x\nmodel: m\nstagse: []", "stagse: unknown key; did you mean 'stages'?"),
        ("name: x\nmodel: m\nstages: [{name: a, dta: f}]", "stages.0"),
        (
            "name: x\nmodel: m\nstages: [{name: a, data: f, scedule: shuffled}]",
            "did you mean 'schedule'?",
        ),
        ("name: x\nmodel: m\nstages: [{name: a, data: {pth: f}}]", "did you mean 'path'?"),
        (
            "name: x\nmodel: m\nstages: [{name: a, data: f}]\nscoring: {prset: paper}",
            "did you mean 'preset'?",
        ),
        ("name: x\nmodel: m\nstages: [{name: a, data: f}]\nscoring: {preset: papr}", "got 'papr'"),
        ("name: x\nmodel: m\nstages: []", "stages"),
        ("model: m\nstages: [{name: a, data: f}]", "name: missing"),
        ("name: x y\nmodel: m\nstages: [{name: a, data: f}]", "name"),
        ("name: x\nmodel: m\nstages: [{name: a, data: f}, {name: a, data: f}]", "given twice"),
        ("name: x\nmodel: m\nstages: [{name: base, data: f}]", "reserved"),
        (
            "name: x\nname: y\nmodel: m\nstages: [{name: a, data: f}]",
            "line 2: not valid YAML: key 'name' is given twice",
        ),
        ("name: [", "not valid YAML"),
        ("- a", "expected a mapping"),
        (
            "name: x\nmodel: m\nstages: [{name: a, data: f}]\ntracking: sqlite:///x",
            "tracking: expected a mapping with",
        ),
        (
            "name: x\nmodel: m\nstages: [{name: a, data: {path: f, dataset: d}}]",
            "either 'path' or 'dataset'",
        ),
        (
            "name: x\nmodel: m\nstages: [{name: a, data: f, peft: {r: 8}}, {name: b, data: f, peft: {r: 4}}]",
            "continues the adapter of 'a' with other peft options",
        ),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(tmp_path, text, expected):
    with pytest.raises(ConfigError) as error:
        parse(text, tmp_path / "e.yaml")
    assert expected in str(error.value)
    assert str(tmp_path / "e.yaml") in str(error.value)
    assert "\n" not in str(error.value)


def test_numbers_are_read_as_everyone_writes_them(tmp_path):
    text = "name: x\nmodel: m\nstages: [{name: a, data: f, training: {learning_rate: 2e-4, weight_decay: 1E3, tag: 2e}}]"
    assert parse(text, tmp_path / "e.yaml").stages[0].training == {
        "learning_rate": 0.0002,
        "weight_decay": 1000.0,
        "tag": "2e",
    }


def test_what_mlflow_finds_is_no_path(tmp_path):
    text = "name: x\nmodel: m\nstages: [{name: a, data: 'runs:/1/f.jsonl'}, {name: b, data: f.jsonl}]\nheld_out: 's3://b/f.jsonl'"
    found = parse(text, tmp_path / "e.yaml")
    assert [s.data.path for s in found.stages] == ["runs:/1/f.jsonl", str(tmp_path / "f.jsonl")]
    assert found.held_out.path == "s3://b/f.jsonl"


def test_overrides_replace_the_files_values_and_are_named_when_wrong(experiment_file):
    assert read(experiment_file, {"seed": "7", "model": ""}).seed == 7
    with pytest.raises(ConfigError, match=r"parameter seed: .*got 'many'"):
        read(experiment_file, {"seed": "many"})


def test_data_files_are_found_from_the_experiments_folder(experiment_file, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    assert read(experiment_file).stages[0].data == DataConfig(path=str(tmp_path / "first.jsonl"))


def test_a_dumped_experiment_reads_back_the_same(experiment_file, tmp_path):
    experiment = read(
        edit_yaml(experiment_file, mitigations=["control"], scoring={"preset": "paper"})
    )
    assert parse(dump(experiment), tmp_path / "copy.yaml") == experiment


def test_an_adapter_may_change_when_a_new_one_is_started(tmp_path):
    text = "name: x\nmodel: m\nstages: [{name: a, data: f, peft: {r: 8}}, {name: b, data: f, peft: {r: 4}, adapter: new}]"
    assert parse(text, tmp_path / "e.yaml").stages[1].adapter == "new"
