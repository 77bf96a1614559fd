"""Configurations of axolotl."""

from pathlib import Path

import pytest

from ilp_mlflow.core.config import DataConfig
from ilp_mlflow.data.training_configs import axolotl
from ilp_mlflow.data.training_configs.axolotl import axolotl_setup
from ilp_mlflow.data.training_configs.chat_templates import CHATML

PATH = Path("train.yml")


@pytest.fixture(autouse=True)
def _datasets(monkeypatch):
    def read(config, folder):
        return [DataConfig(path=str(folder / entry["path"])) for entry in config["datasets"]]

    monkeypatch.setattr(axolotl, "read_axolotl_datasets", read)


def setup(**fields):
    return axolotl_setup({"base_model": "m", **fields}, PATH, "")


def test_the_defaults_are_axolotls():
    bare = setup()
    assert (bare.max_length, bare.too_long, bare.loss_on) == (512, "drop", "assistant turns")
    assert (bare.epochs, bare.batch_size, bare.accumulation) == (1.0, 1, 1)
    assert bare.adapter is None
    assert bare.end_in_loss


def test_a_row_too_long_is_left_out_or_cut():
    assert setup(excess_length_strategy="truncate").too_long == "keep_start"
    assert setup(excess_length_strategy="raise").too_long == "drop"


def test_what_is_in_the_loss():
    assert setup(train_on_inputs=True).loss_on == "everything"
    none = setup(datasets=[{"path": "d.jsonl", "train_on_eos": "none"}])
    assert not none.end_in_loss
    both = setup(datasets=[{"path": "d.jsonl", "roles_to_train": ["assistant", "user"]}])
    assert "roles_to_train names 'user'" in both.notes[0]


@pytest.mark.parametrize(
    ("fields", "template"),
    [
        ({"chat_template": "chatml"}, CHATML),
        ({"chat_template": "tokenizer_default"}, None),
        ({"chat_template": "jinja", "chat_template_jinja": "{{ messages }}"}, "{{ messages }}"),
        ({"chat_template_jinja": "chat.jinja"}, "from a file"),
        ({"chat_template": "llama3"}, None),
        ({"datasets": [{"path": "d", "chat_template": "chatml"}]}, CHATML),
    ],
)
def test_whose_template_renders_the_rows(tmp_path, fields, template):
    (tmp_path / "chat.jinja").write_text("from a file")
    read = axolotl_setup({"base_model": "m", **fields}, tmp_path / "train.yml", "")
    assert read.chat_template == template
    assert bool(read.notes) == (fields.get("chat_template") == "llama3")


def test_chatml_is_chatml():
    import jinja2

    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    text = jinja2.Template(CHATML).render(messages=turns, add_generation_prompt=True)
    assert text == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_tokens_and_what_trains_them():
    read = setup(
        special_tokens={"pad_token": "[PAD]", "additional_special_tokens": ["<x>"]},
        tokens=["<sql>"],
        adapter="lora",
        lora_target_linear=True,
        lora_modules_to_save=["embed_tokens"],
        peft_trainable_token_indices=[1],
    )
    assert read.pad_token == "[PAD]"
    assert read.added_tokens == ("[PAD]", "<x>", "<sql>")
    assert read.adapter.target_modules == ("all-linear",)
    assert read.adapter.modules_to_save == ("embed_tokens",)
    assert read.adapter.token_rows


def test_rows_lie_where_axolotl_is_started_or_beside_the_file(tmp_path, monkeypatch):
    fields = {"base_model": "m", "datasets": [{"path": "d.jsonl", "type": "alpaca"}]}
    path = tmp_path / "configs" / "train.yml"
    assert axolotl_setup(fields, path, "").data[0].path == str(tmp_path / "configs" / "d.jsonl")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.jsonl").touch()
    assert axolotl_setup(fields, path, "").data[0].path == str(tmp_path / "d.jsonl")


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ({"roles_to_train": []}, "roles_to_train is empty"),
        ({"train_on_eos": "last"}, "train_on_eos is 'last'"),
    ],
)
def test_what_is_counted_otherwise_than_axolotl_trains_is_a_note(option, expected):
    entry = {"path": "owner/name", "type": "chat_template", **option}
    (note,) = setup(datasets=[entry]).notes
    assert expected in note
    usual = entry | {"roles_to_train": ["assistant"], "train_on_eos": "turn"}
    assert setup(datasets=[usual]).notes == ()
