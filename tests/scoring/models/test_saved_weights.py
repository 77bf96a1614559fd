"""What was saved against what is in memory: whole models, tied ones, adapters, adapters with embeddings."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from ilp_mlflow.core.errors import ModelError
from ilp_mlflow.scoring.models import loading
from ilp_mlflow.scoring.models.tokenization import read_tokenization
from tests.scoring import model_folders
from tests.scoring.model_folders import ADAPTER, MODEL

pytestmark = pytest.mark.filterwarnings("ignore")
LORA = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
HEAD = LORA | {"modules_to_save": ["lm_head"]}


def full(base, dtype="float32"):
    return AutoModelForCausalLM.from_pretrained(base, dtype=dtype)


def tied(base):
    model = full(base)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    return model


def resized(base):
    model = full(base)
    model.resize_token_embeddings(len(model.get_input_embeddings().weight) + 1, mean_resizing=False)
    return get_peft_model(model, LoraConfig(**LORA))


MODELS = {
    "full": (full, MODEL, "model.norm.weight"),
    "bfloat16": (lambda base: full(base, "bfloat16"), MODEL, "lm_head.weight"),
    "tied": (tied, MODEL, "model.embed_tokens.weight"),
    "adapter": (
        lambda base: get_peft_model(full(base), LoraConfig(**LORA)),
        ADAPTER,
        "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight",
    ),
    "head with the adapter": (
        lambda base: get_peft_model(full(base), LoraConfig(**HEAD)),
        ADAPTER,
        "base_model.model.lm_head.weight",
    ),
    "embeddings with the adapter": (
        resized,
        ADAPTER,
        "base_model.model.model.embed_tokens.weight",
    ),
}


def corrupt(monkeypatch, cls, folder, change, file):
    """Change the file behind the library's back, once it has written it."""
    write = cls.save_pretrained

    def write_and_change(model, *args, **options):
        write(model, *args, **options)
        model_folders.edit_tensors(folder, change, file)

    monkeypatch.setattr(cls, "save_pretrained", write_and_change)


def one_value_more(name):
    def change(tensors):
        tensors[name].view(-1)[3] += 1
        return tensors

    return change


@pytest.mark.parametrize("kind", MODELS)
def test_one_wrong_value_ends_the_saving_with_the_tensor_and_the_file(
    kind, tiny_model, tmp_path, monkeypatch
):
    make, file, name = MODELS[kind]
    text = read_tokenization([str(tiny_model)])
    model = model_folders.stir(make(tiny_model))
    loaded = loading.LoadedModel(text.tokenizer, text.end_token_ids, text.max_length, model)
    loading.save_model(loaded, tmp_path / "whole", "base", False, str(tiny_model))
    folder = tmp_path / "broken"
    corrupt(monkeypatch, type(model), folder, one_value_more(name), file)
    with pytest.raises(ModelError) as error:
        loading.save_model(loaded, folder, "base", False, str(tiny_model))
    assert str(error.value).startswith(
        f"{folder / file}: {name} has other values than in the trained model (1 of "
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda tensors: {n: t for n, t in tensors.items() if n != "model.norm.weight"},
            "model.norm.weight of the trained model is not in it",
        ),
        (
            lambda tensors: tensors | {"extra": torch.zeros(2)},
            "extra is not in the trained model",
        ),
        (
            lambda tensors: {n: t.bfloat16() for n, t in tensors.items()},
            "is bfloat16 ",
        ),
    ],
)
def test_tensors_that_are_missing_left_over_or_of_another_type(
    change, reason, tiny_model, tmp_path, monkeypatch
):
    loaded = loading.load_model([str(tiny_model)])
    folder = tmp_path / "broken"
    corrupt(monkeypatch, type(loaded.model), folder, change, MODEL)
    with pytest.raises(ModelError, match=reason):
        loading.save_model(loaded, folder, "base", False)
