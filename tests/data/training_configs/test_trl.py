"""Configurations of TRL: its own defaults, and every option that says something of the rows."""

from pathlib import Path

import pytest

from ilp_mlflow.core.errors import ConfigError
from ilp_mlflow.data.training_configs import trl
from ilp_mlflow.data.training_configs.keys import near_misses
from ilp_mlflow.data.training_configs.trl import TrlKeys, trl_setup

PATH = Path("train.yaml")


def setup(**fields):
    return trl_setup(fields, PATH, "")


def test_the_defaults_are_trls():
    import dataclasses

    from trl import SFTConfig

    # an option may be given to the class of its own default only
    defaults = {f.name: f.default for f in dataclasses.fields(SFTConfig)}
    names = set(TrlKeys.model_fields) & set(defaults)
    assert len(names) >= 10
    for name in names:
        assert TrlKeys.model_fields[name].default == defaults[name], name


def test_no_option_of_trl_is_taken_for_a_misspelling():
    import dataclasses

    from trl import ModelConfig, ScriptArguments, SFTConfig

    classes = (SFTConfig, ModelConfig, ScriptArguments)
    fields = {field.name: 1 for one in classes for field in dataclasses.fields(one)}
    known = (*trl.HARMLESS, *trl.UNREAD)
    assert near_misses(fields, set(TrlKeys.model_fields), known) == ()


@pytest.mark.parametrize(
    ("fields", "loss_on"),
    [
        ({}, None),
        ({"completion_only_loss": True}, "answer"),
        ({"completion_only_loss": False}, "everything"),
        ({"assistant_only_loss": True}, "assistant turns"),
    ],
)
def test_what_is_in_the_loss(fields, loss_on):
    assert setup(**fields).loss_on == loss_on


def test_packing_cuts_rows_or_splits_them():
    packed = setup(packing=True, max_length=64)
    assert (packed.packing, packed.max_length, packed.notes) == (True, 64, ())
    split = setup(packing=True, max_length=64, packing_strategy="wrapped")
    assert (split.max_length, split.splits_at, split.splits_any_row) == (None, 64, True)


def test_an_adapter_is_one_only_with_use_peft():
    assert setup(lora_target_modules=["q_proj"]).adapter is None
    adapter = setup(use_peft=True, lora_modules_to_save=["lm_head"]).adapter
    assert adapter.modules_to_save == ("lm_head",)


def test_a_template_comes_from_a_file_or_a_tokenizer(tmp_path, tiny_model):
    (tmp_path / "chat.jinja").write_text("{{ messages }}")
    path = tmp_path / "train.yaml"
    for location, text in (("chat.jinja", "{{ messages }}"), (str(tiny_model), "<|end|>")):
        assert text in trl_setup({"chat_template_path": location}, path, "").chat_template
    with pytest.raises(ConfigError, match=r"chat_template_path: .*none.jinja: No such file"):
        trl_setup({"chat_template_path": "none.jinja"}, path, "")


def test_an_option_that_matters_and_is_not_read_is_told():
    assert "dataset_kwargs is not read" in setup(dataset_kwargs={"a": 1}).notes[0]
    assert setup(dataset_kwargs=None).notes == ()


def test_rate_warmup_and_scale_of_the_adapter(tmp_path):
    fields = {"learning_rate": "2e-4", "warmup_ratio": 0.1, "use_peft": True, "lora_alpha": 4}
    setup = trl_setup(fields, tmp_path / "sft.yaml", "read")
    assert (setup.learning_rate, setup.warmup_steps) == (2e-4, 0.1)
    assert setup.adapter.scale == 4 / 16
    rank_stabilised = trl_setup({**fields, "use_rslora": True}, tmp_path / "sft.yaml", "read")
    assert rank_stabilised.adapter.scale == 1
