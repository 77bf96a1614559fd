"""Tokens that were added before training, that nobody trains, that end nothing, or that are lost."""

import shutil

import pytest
from peft import LoraConfig

from tests.cli.commands import document
from tests.conftest import write_jsonl
from tests.sibling_cases import tiny_training as tiny
from tests.sibling_cases.conftest import LORA, ONE
from tests.sibling_cases.tiny_training import statuses

CHATS = tiny.as_chats(ONE)


def with_chat_tokens(base):
    """The tokenizer and the model of a base that gets ChatML, embeddings a multiple of 64."""
    tokenizer = tiny.load_tokenizer(base)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.eos_token, tokenizer.chat_template = "<|im_end|>", tiny.CHATML
    model = tiny.load(base)
    model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64, mean_resizing=False)
    assert model.config.vocab_size % 64 == 0 < model.config.vocab_size - len(tokenizer)
    return tokenizer, model


@pytest.mark.parametrize("is_adapter", [False, True], ids=["all weights", "adapter"])
def test_chat_tokens_that_the_base_lacks(is_adapter, town_base, diagnosed, tmp_path):
    tokenizer, model = with_chat_tokens(town_base)
    if is_adapter:
        both = ["embed_tokens", "lm_head"]
        model = tiny.with_adapter(model, LoraConfig(**LORA, modules_to_save=both))
    examples = tiny.chat_examples(tokenizer, CHATS)
    tiny.teach(model, examples)
    assert tiny.reproduced(model, examples) == 12
    tiny.save(model, tmp_path / "sft", tokenizer)
    told = diagnosed(CHATS, base=town_base, sft=tmp_path / "sft")
    assert statuses(told) == {"learned": 12}
    # the base has no token for the turns of a prompt, so it cannot be asked
    assert told["unscored_by_stage"]["sft"] == {"base": 12, "sft": 0}


# `ilp check`: tokens that the base was given and the adapter does not train


def found(rows, folder, *options):
    """What `ilp check` finds, by its kind."""
    data = write_jsonl(folder / "rows.jsonl", rows)
    checked = document("check", "--data", data, *options)
    return {finding["kind"]: finding for finding in checked["findings"]}


TRL = "use_peft: true\nlora_target_modules: [q_proj, v_proj]\nmax_length: 200\n"
LLAMA_FACTORY = "finetuning_type: lora\nlora_target: all\ncutoff_len: 200\n"


@pytest.mark.parametrize(
    ("text", "is_trained"),
    [
        (TRL, False),
        (LLAMA_FACTORY, False),
        # they are there already, so that nothing is added and nothing is resized
        (LLAMA_FACTORY + "add_special_tokens: <tool>,</tool>\n", False),
        (LLAMA_FACTORY + "resize_vocab: true\n", True),
        (TRL + "lora_modules_to_save: [embed_tokens, lm_head]\n", True),
    ],
)
def test_new_tokens_in_the_prompts_that_the_adapter_does_not_train(
    text, is_trained, town_base, tmp_path
):
    tokenizer, model = tiny.load_tokenizer(town_base), tiny.load(town_base)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<tool>", "</tool>"]})
    # as transformers makes new rows: near the mean of the others
    model.resize_token_embeddings(len(tokenizer))
    tiny.save(model, tmp_path / "base", tokenizer)
    rows = [{**row, "prompt": f"<tool>{row['prompt']}</tool>"} for row in ONE[:4]] + ONE[4:]
    config = tmp_path / "train.yaml"
    config.write_text(f"model_name_or_path: {tmp_path / 'base'}\n{text}")
    findings = found(rows, tmp_path, "--training", config)
    assert ("untrained_tokens" not in findings) == is_trained
    if not is_trained:
        finding = findings["untrained_tokens"]
        assert (finding["severity"], finding["rows"]) == ("error", 4)
        assert "<tool>, </tool> are not trained by the adapter" in finding["sentence"]
        assert "modules_to_save" in finding["change"]


# `ilp check`: turns that nothing ends

NEWLINE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.mark.parametrize(
    ("template", "kind", "said"),
    [
        (NEWLINE, "end_not_in_the_loss", "no end token stands behind its answer"),
        # to the tokenizer it is text
        (
            tiny.CHATML.replace("<|im_end|>", "</s>"),
            "end_not_in_the_loss",
            "no end token stands behind its answer",
        ),
        (tiny.CHATML, "end_does_not_stop", "<|im_end|>"),
        (tiny.CHATML.replace("<|im_end|>", "<|endoftext|>"), None, ""),
    ],
    ids=["a line feed", "a marker that is text", "no end token of the model", "its end token"],
)
def test_a_turn_that_ends_with_no_end_token(template, kind, said, tmp_path):
    tokenizer = tiny.make_tokenizer(template, end="<|endoftext|>")
    tiny.make_model(tokenizer, tmp_path / "base")
    findings = found(CHATS, tmp_path, "--model", tmp_path / "base")
    about_ends = {"end_not_in_the_loss", "end_does_not_stop"} & findings.keys()
    assert about_ends == ({kind} if kind else set())
    if kind:
        finding = findings[kind]
        assert (finding["severity"], finding["rows"]) == ("warning", 12)
        assert said in finding["sentence"] + finding["example"]


# Weights whose tokenizer is not all there


@pytest.fixture
def chat_models(tmp_path):
    """A base without a chat template, and a model that was taught chats with another end."""
    tokenizer = tiny.make_tokenizer(template=None, end="<|endoftext|>")
    model = tiny.make_model(tokenizer, tmp_path / "base")
    tokenizer.eos_token, tokenizer.chat_template = "<|im_end|>", tiny.CHATML
    tiny.teach(model, tiny.chat_examples(tokenizer, CHATS))
    return {"base": tmp_path / "base", "sft": tiny.save(model, tmp_path / "sft", tokenizer)}


def test_a_tokenizer_without_its_vocabulary(chat_models, diagnosed):
    (chat_models["sft"] / "tokenizer.json").unlink()
    # the chat template and the end token that are there count; the base has neither
    assert statuses(diagnosed(CHATS, **chat_models)) == {"learned": 12}


def test_the_tokenizer_of_an_output_folder_is_that_of_its_steps(chat_models, diagnosed, tmp_path):
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    chat_models["sft"].rename(outputs / "checkpoint-20")
    for path in (outputs / "checkpoint-20").glob("*t*en*zer*"):
        path.rename(outputs / path.name)
    (outputs / "checkpoint-20" / "chat_template.jinja").rename(outputs / "chat_template.jinja")
    told = diagnosed(CHATS, base=chat_models["base"], sft=outputs)
    assert statuses(told) == {"learned": 12}


def test_an_adapter_reads_text_as_the_base_that_it_names(town_base, town_adapter, store, tmp_path):
    adapter = tmp_path / "adapter"
    shutil.copytree(town_adapter, adapter)
    shutil.copy(town_base / "tokenizer_config.json", adapter)
    data = write_jsonl(tmp_path / "rows.jsonl", ONE)
    out = tmp_path / "scores.parquet"
    told = document("score", f"--checkpoint=sft={adapter}", "--data", data, "--out", out)
    assert told["learned"] == {"sft": 1.0}
