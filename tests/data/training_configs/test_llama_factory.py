"""Configurations of LLaMA-Factory."""

from pathlib import Path

import pytest

from ilp_mlflow.core.config import DataConfig
from ilp_mlflow.core.errors import ConfigError
from ilp_mlflow.data.training_configs import llama_factory
from ilp_mlflow.data.training_configs.llama_factory import llama_factory_setup

PATH = Path("train.yaml")


def setup(**fields):
    return llama_factory_setup(fields, PATH, "")


def test_the_defaults_are_llama_factorys():
    bare = setup()
    assert (bare.max_length, bare.too_long, bare.loss_on) == (2048, "share", "assistant turns")
    # LoRA on all linear layers, and the embeddings, too, once tokens are added
    assert bare.adapter.target_modules == ("all",)
    assert bare.adapter.trains_added_tokens
    assert (bare.epochs, bare.batch_size, bare.accumulation) == (3.0, 8, 1)


@pytest.mark.parametrize(
    ("fields", "loss_on"),
    [
        ({"mask_history": True}, "answer"),
        ({"train_on_prompt": True}, "everything"),
        ({"stage": "pt"}, "everything"),
    ],
)
def test_what_is_in_the_loss(fields, loss_on):
    assert setup(**fields).loss_on == loss_on


def test_a_packed_sequence_has_one_token_less():
    assert setup(cutoff_len=64, neat_packing=True).max_length == 63


def test_tokens_are_written_with_commas():
    read = setup(add_tokens="<sql>, </sql>", add_special_tokens="<x>", additional_target="lm_head")
    assert read.added_tokens == ("<sql>", "</sql>", "<x>")
    assert read.adapter.modules_to_save == ("lm_head",)
    assert not read.adapter.trains_added_tokens


def test_embeddings_are_trained_where_the_vocabulary_is_resized():
    assert setup(new_special_tokens="<sql>,</sql>").added_tokens == ("<sql>", "</sql>")
    assert setup().adapter.modules_to_save == ()
    assert setup(resize_vocab=True).adapter.modules_to_save == ("embed_tokens", "lm_head")
    told = setup(resize_vocab=True, additional_target="lm_head")
    assert told.adapter.modules_to_save == ("lm_head",)


def test_its_own_template_is_said_to_be_stood_in_for():
    assert "template 'qwen' is LLaMA-Factory's own" in setup(template="qwen").notes[0]
    assert setup(enable_thinking=False).chat_template_kwargs == {"enable_thinking": False}


def test_its_data_sets_are_those_of_its_list(tmp_path, monkeypatch):
    monkeypatch.setattr(
        llama_factory,
        "read_dataset_info",
        lambda path, name: DataConfig(path=f"{path.parent.name}/{name}"),
    )
    fields = {"dataset": "a,b", "dataset_dir": "lists", "max_samples": 3}
    with pytest.raises(ConfigError, match=r"no lists/dataset_info\.json here or beside the file"):
        llama_factory_setup(fields, tmp_path / "train.yaml", "")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "dataset_info.json").write_text("{}")
    data = llama_factory_setup(fields, tmp_path / "train.yaml", "").data
    assert [(one.path, one.limit) for one in data] == [("lists/a", 3), ("lists/b", 3)]
