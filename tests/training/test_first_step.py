"""What is said behind the first step of a training, ours or someone else's."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

from ilp_mlflow import IlpCallback
from ilp_mlflow.core.config import TokenizerConfig
from ilp_mlflow.core.terminal import notes
from ilp_mlflow.scoring.models import loading
from ilp_mlflow.scoring.tokens.encoding import load_tokenizer
from ilp_mlflow.training.trainer import train_stage
from tests.conftest import rows
from tests.test_trl_callback import ROWS, turned
from tests.training.test_trainer import PEFT, TRAINING, stage

OUTSIDE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] }}{% endgeneration %}<|end|>{% else %}"
    "{{ m['content'] }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""A template whose end token stands outside of what it marks as generated."""


@pytest.fixture(autouse=True)
def said_anew(monkeypatch):
    """Notes that another test has had said are said again."""
    monkeypatch.setattr(notes, "_said", set())


def reasoned(records):
    chats = turned(records)
    for chat in chats:
        chat["messages"][1]["reasoning_content"] = "Think of the map of Europe."
    return chats


@pytest.mark.parametrize(
    ("records", "training", "template", "expected"),
    [
        (reasoned(rows()), {}, None, "reasoning_content is nowhere in what the model sees"),
        (
            [*rows(), {"id": "long", "prompt": "Say it", "completion": " Paris" * 30}],
            {"max_length": 24},
            None,
            "1 of 9 rows (11 %): longer than max_length 24 and cut",
        ),
        (
            [*rows() * 2, {"id": "x", "prompt": "Paris " * 30, "completion": " Rome"}],
            {"max_length": 24},
            None,
            "no token is in the loss, so nothing is learned from them",
        ),
        (
            turned(rows()),
            {"assistant_only_loss": True},
            OUTSIDE,
            "8 of 8 rows (100 %): the answer is trained and its end token is not",
        ),
    ],
)
def test_our_own_training_says_once_behind_its_first_step_what_goes_wrong(
    tiny_model, tmp_path, capsys, records, training, template, expected
):
    for number, record in enumerate(records):
        record["id"] = str(number)
    options = None
    if template:
        (tmp_path / "template.jinja").write_text(template)
        options = TokenizerConfig(chat_template=str(tmp_path / "template.jinja"))
    parent = loading.load_model([str(tiny_model)], options)
    train_stage(stage(records, {**training, "max_steps": 3}), parent, tmp_path / "out")
    said = capsys.readouterr().err
    assert said.count(expected) == 1, said
    assert "ilp: stage 's': " in said


# TRL is to give up label smoothing
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("training", "peft"),
    [
        ({}, None),
        ({}, PEFT),
        ({}, {**PEFT, "use_dora": True, "r": 2}),
        ({"label_smoothing_factor": 0.1, "weight_decay": 0.1}, None),
        ({"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}, PEFT),
        ({"lr_scheduler_type": "constant"}, None),
        ({"gradient_checkpointing": True}, PEFT),
    ],
)
def test_a_healthy_training_is_told_nothing(tiny_model, tmp_path, capsys, training, peft):
    parent = loading.load_model([str(tiny_model)])
    train_stage(stage(rows(), {**training, "max_steps": 1}, peft=peft), parent, tmp_path)
    assert "stage 's'" not in capsys.readouterr().err


def followed(model, tokenizer, records, out, peft=None, base=None):
    class Undiagnosed(IlpCallback):
        def _diagnose(self, model):
            raise RuntimeError("left out")

    args = {**TRAINING, "output_dir": str(out), "report_to": "none", "save_strategy": "no"}
    SFTTrainer(
        model,
        SFTConfig(**{**args, "max_steps": 2, "gradient_checkpointing": True}),
        train_dataset=records,
        processing_class=tokenizer,
        callbacks=[Undiagnosed(records, base=base)],
        peft_config=peft,
    ).train()


@pytest.mark.parametrize("trains_rows", [False, True])
def test_new_tokens_that_an_adapter_does_not_train_are_told(
    tiny_model, store, tmp_path, capsys, trains_rows
):
    tokenizer = load_tokenizer([str(tiny_model)])
    tokenizer.add_tokens(["<call>"])
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.resize_token_embeddings(len(tokenizer))
    records = ROWS.map(lambda row: {"completion": f" <call>{row['completion']}"})
    saved = ["embed_tokens", "lm_head"] if trains_rows else None
    peft = LoraConfig(task_type="CAUSAL_LM", **PEFT, modules_to_save=saved)
    followed(model, tokenizer, records, tmp_path, peft, str(tiny_model))
    said = capsys.readouterr().err
    expected = "the embeddings of the new tokens <call> are not trained by the adapter"
    assert (expected in said) is not trains_rows


def test_an_adapter_that_was_loaded_for_inference_trains_nothing(
    tiny_model, store, tmp_path, capsys
):
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **PEFT)).save_pretrained(
        tmp_path / "adapter"
    )
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    model = PeftModel.from_pretrained(base, tmp_path / "adapter")
    model.enable_input_require_grads()
    assert not any(weight.requires_grad for weight in model.parameters())
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    followed(model, load_tokenizer([str(tiny_model)]), ROWS, tmp_path, base=str(tiny_model))
    assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters())
    said = capsys.readouterr().err
    assert "the adapter trains nothing: 'default' has no trainable weight" in said
    assert "is_trainable=True" in said
