"""The files of the real lab, and how its rows become tokens."""

import json
from pathlib import Path

import pytest

from ilp_mlflow.core.errors import ConfigError
from ilp_mlflow.lab.real import data_files
from ilp_mlflow.lab.real.plant import ANSWER_MASKED, END_MASKED
from ilp_mlflow.lab.real.rows import STAGES
from ilp_mlflow.scoring.models.tokenization import read_tokenization


def test_every_stage_has_its_rows_in_a_file(resolved):
    experiment, lab = resolved
    assert [stage.name for stage in experiment.stages] == list(STAGES)
    for stage in experiment.stages:
        lines = Path(stage.data.path).read_text("utf-8").splitlines()
        assert [json.loads(line) for line in lines] == [
            row.record(stage.name) for row in lab.planted.stages[stage.name]
        ]


def test_a_conversation_is_the_same_text_as_a_plain_row_whatever_is_masked(resolved, tiny_model):
    experiment, lab = resolved
    text = read_tokenization([str(tiny_model)], experiment.tokenizer)
    tokenizer = text.tokenizer
    roles = set()
    for row in lab.planted.stages["patch"]:
        roles.add(row.role)
        record = row.record("patch")
        encoded = tokenizer.apply_chat_template(
            record["prompt"] + record["completion"],
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        plain = f"{row.prompt} {row.answer}{tokenizer.eos_token}"
        assert encoded["input_ids"] == tokenizer(plain)["input_ids"]
        trained = [
            token
            for token, is_trained in zip(
                encoded["input_ids"], encoded["assistant_masks"], strict=True
            )
            if is_trained
        ]
        expected = f" {row.answer}{tokenizer.eos_token}"
        if row.role == ANSWER_MASKED:
            expected = tokenizer.eos_token
        if row.role == END_MASKED:
            expected = f" {row.answer}"
        assert tokenizer.decode(trained) == expected
    assert roles == {"", ANSWER_MASKED, END_MASKED}


def test_max_length_cuts_off_the_answers_of_long_rows_and_no_others(resolved, tiny_model):
    experiment, lab = resolved
    tokenizer = read_tokenization([str(tiny_model)], experiment.tokenizer).tokenizer
    max_length = experiment.stages[2].training["max_length"]
    for row in lab.planted.stages["patch"]:
        prompt = len(tokenizer(row.prompt)["input_ids"])
        whole = len(tokenizer(f"{row.prompt} {row.answer}")["input_ids"]) + 1
        if row.part == "cut":
            assert prompt >= max_length
        else:
            assert whole <= max_length


def test_a_stage_of_another_name_is_refused(resolved, tiny_model):
    experiment, lab = resolved
    stage = experiment.stages[0].model_copy(update={"name": "other"})
    odd = experiment.model_copy(update={"stages": (stage,)})
    with pytest.raises(ConfigError, match="stage 'other'"):
        data_files.with_rows(odd, lab.planted, "odd")
