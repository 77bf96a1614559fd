"""Whose configuration a file is, by its keys, and what cannot be read at all."""

import json

import pytest

from ilp_mlflow.core.errors import ConfigError
from ilp_mlflow.data.training_configs.read import read_training_config
from tests.conftest import write_jsonl

TRL = "model_name_or_path: some/model\nlearning_rate: 2.0e-5\nmax_length: 2048\npacking: true\n"
LLAMA_FACTORY = """\
### model
model_name_or_path: some/model
### method
stage: sft
do_train: true
finetuning_type: lora
lora_target: all
### dataset
template: qwen
cutoff_len: 2048
"""
AXOLOTL = """\
base_model: some/model
sequence_len: 2048
sample_packing: true
adapter: qlora
lora_model_dir:
micro_batch_size: 2
num_epochs: 4
"""


def read(folder, text, name="train.yaml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return read_training_config(str(path))


@pytest.mark.parametrize(
    ("text", "trainer", "model"),
    [
        (TRL, "TRL", "some/model"),
        (LLAMA_FACTORY, "LLaMA-Factory", "some/model"),
        (AXOLOTL, "axolotl", "some/model"),
    ],
    ids=["trl", "llama_factory", "axolotl"],
)
def test_a_file_is_recognised_by_its_keys(tmp_path, text, trainer, model):
    setup = read(tmp_path, text)
    assert setup.trainer == trainer
    assert setup.model == model
    assert f"a configuration of {trainer}, by " in setup.read_as
    assert not setup.unknown_keys


def test_arguments_saved_as_json_are_trls(tmp_path):
    fields = {"per_device_train_batch_size": 2, "num_train_epochs": 1.0, "max_length": None}
    setup = read(tmp_path, json.dumps(fields), "training_args.json")
    assert setup.trainer == "TRL"
    assert setup.batch_size == 2
    # null is TRL's way of saying that nothing is cut
    assert setup.max_length is None


def test_a_stage_of_an_experiment_file(tmp_path):
    text = (
        "name: x\nmodel: some/model\nstages:\n"
        "- {name: a, data: a.jsonl, training: {max_length: 32}}\n"
        "- {name: b, data: b.jsonl, peft: {target_modules: all-linear}}\n"
    )
    first = read(tmp_path, text)
    second = read_training_config(f"{tmp_path}/train.yaml#b")
    assert (first.max_length, second.max_length) == (32, 1024)
    assert first.adapter is None
    assert second.adapter.target_modules == ("all-linear",)
    assert [data.path for data in second.data] == [str(tmp_path / "b.jsonl")]
    # ilp trains the last turn, whatever the column is called
    assert first.loss_on == "answer"
    with pytest.raises(ConfigError, match=r"no stage 'c' in it; known are: a, b"):
        read_training_config(f"{tmp_path}/train.yaml#c")


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("max_length: many\n", "t.yaml", "max_length: input should be a valid integer"),
        ("max_length: true\n", "t.yaml", r"max_length: must be a number \(got True\)"),
        ("max_length: 0\n", "t.yaml", "max_length: input should be greater than or equal to 1"),
        ("cutoff_len: [1]\n", "t.yaml", "cutoff_len: input should be a valid integer"),
        ("sequence_len: 1.5\n", "t.yaml", "sequence_len: input should be a valid integer"),
        ("truncation_mode: middle\n", "t.yaml", "truncation_mode: input should be 'keep_start'"),
        ("base_model: m\nrl: dpo\n", "t.yaml", "rl: dpo: rows of preferences are not checked"),
        ("template: qwen\nstage: dpo\n", "t.yaml", "stage: input should be 'sft' or 'pt'"),
        ("cutoff_len: 8\nsequence_len: 8\n", "t.yaml", "may be of LLaMA-Factory .* or of axolotl"),
        ("model_class: llm\ntrain_dataset: d\n", "t.yaml", "new form of LLaMA-Factory"),
        ("base_modle: m\n", "t.yaml", "did you mean 'base_model'"),
        ("colour: red\n", "t.yaml", "is this the right file"),
        ("- a\n- b\n", "t.yaml", "expected a mapping, got list"),
        ("max_length: 1\nmax_length: 2\n", "t.yaml", "key 'max_length' is given twice"),
        ("{", "t.json", "t.json line 1: not valid JSON"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(tmp_path, text, name, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read(tmp_path, text, name)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_training_config(str(tmp_path / "none.yaml"))


def test_only_an_experiment_has_stages(tmp_path):
    read(tmp_path, TRL)
    with pytest.raises(ConfigError, match="only an experiment file has stages"):
        read_training_config(f"{tmp_path}/train.yaml#first")


def test_a_key_that_was_renamed_is_told(tmp_path):
    setup = read(tmp_path, "model_name_or_path: m\nmax_seq_length: 4096\n")
    assert setup.max_length == 1024
    (unknown,) = setup.unknown_keys
    assert unknown == "unknown key 'max_seq_length' is not read; did you mean 'max_length'?"


def test_rows_beside_the_configuration_are_found(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [])
    setup = read(tmp_path, "dataset_name: rows.jsonl\nmax_length: 8\n")
    assert [data.path for data in setup.data] == [str(tmp_path / "rows.jsonl")]
    hub = read(tmp_path, "dataset_name: owner/rows\ndataset_train_split: all\nmax_length: 8\n")
    assert [(data.dataset, data.split) for data in hub.data] == [("owner/rows", "all")]
