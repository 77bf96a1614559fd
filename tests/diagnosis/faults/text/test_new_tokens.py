"""Rows with tokens that no training touched: what the files of tiny models say of them."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from ilp_mlflow.core.values import Sample
from ilp_mlflow.diagnosis.faults.text.new_tokens import find_untrained_tokens
from tests.diagnosis.faults.runs import facts_of, pairs
from tests.scoring.model_folders import stir

NEW = ["<sql>", "</sql>"]


@pytest.fixture(scope="module")
def base(tiny_model, tmp_path_factory):
    """The tiny model with two new tokens, as they are made."""
    folder = tmp_path_factory.mktemp("new") / "base"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_special_tokens({"additional_special_tokens": NEW})
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype="float32")
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    for end in (model.get_input_embeddings(), model.get_output_embeddings()):
        end.weight.data[-2:] = 1e-4 * torch.randn(2, end.weight.shape[1])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def marked(samples):
    """Every other answer between the new tokens."""
    return [
        Sample(**{**s.model_dump(), "completion": f" <sql>{s.completion}</sql>"}) if i % 2 else s
        for i, s in enumerate(samples)
    ]


def adapted(base, folder, **options):
    config = LoraConfig(r=2, task_type="CAUSAL_LM", **options)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype="float32"), config)
    stir(model).save_pretrained(str(folder))
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


ALL = {"target_modules": "all-linear"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("options", "count"),
    [
        (ALL, 4),
        # the head of this model is not its embedding, which alone is trained here
        ({**ALL, "modules_to_save": ["embed_tokens"]}, 4),
        ({**ALL, "trainable_token_indices": [1, 2]}, 4),
        ({**ALL, "modules_to_save": ["embed_tokens", "lm_head"]}, 0),
        ({"target_modules": ["q_proj", "lm_head"]}, 0),
    ],
)
def test_rows_with_tokens_that_the_adapter_does_not_train(base, tmp_path, options, count):
    samples = marked(pairs())
    faults = find_untrained_tokens(
        facts_of(samples, base, adapted(base, tmp_path / "a", **options))
    )
    assert sum(len(fault.samples) for fault in faults) == count
    for fault in faults:
        assert (fault.kind, fault.cause) == ("untrained_tokens", "not_trained")
        assert "<sql>, </sql>" in fault.reason
        assert "modules_to_save" in fault.change
        assert set(fault.samples) == {s.id for s in samples if "<sql>" in s.completion}


@pytest.mark.parametrize(("frozen", "count"), [(True, 4), (False, 0)])
def test_a_whole_training_trains_them_unless_they_are_frozen(base, tmp_path, frozen, count):
    model = AutoModelForCausalLM.from_pretrained(base, dtype="float32")
    for end in (model.get_input_embeddings(), model.get_output_embeddings()):
        end.weight.requires_grad_(not frozen)
    stir(model, std=0.2).save_pretrained(tmp_path / "m")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "m")
    faults = find_untrained_tokens(facts_of(marked(pairs()), base, tmp_path / "m"))
    assert sum(len(fault.samples) for fault in faults) == count


def test_rows_without_new_tokens_have_no_fault(base, tmp_path):
    assert (
        find_untrained_tokens(facts_of(pairs(), base, adapted(base, tmp_path / "a", **ALL))) == []
    )


def test_tokens_beyond_the_embedding(tiny_model, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_special_tokens({"additional_special_tokens": NEW})
    AutoModelForCausalLM.from_pretrained(tiny_model, dtype="float32").save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (fault,) = find_untrained_tokens(facts_of(marked(pairs()), tiny_model, tmp_path))
    assert (fault.kind, len(fault.samples)) == ("beyond_the_embedding", 4)
