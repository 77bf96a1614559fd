"""Models that are unusual, but whole: all load, and say what transformers and PEFT alone say."""

import re
import shutil
import warnings

import mlflow
import numpy as np
import peft
import pytest
import torch
from peft import (
    FourierFTConfig,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    PeftModel,
    get_peft_model,
)
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    Qwen2Config,
    Qwen3MoeConfig,
)

from ilp_mlflow.core.config import ScoringConfig
from ilp_mlflow.core.values import Sample
from ilp_mlflow.scoring.checkpoints import score_checkpoints
from ilp_mlflow.scoring.forward import NEVER_SAID
from ilp_mlflow.scoring.models import loading
from ilp_mlflow.scoring.models.tokenization import read_tokenization
from ilp_mlflow.scoring.speaking.probe import ModelProbe
from ilp_mlflow.scoring.tokens import encoding
from ilp_mlflow.tracking import model_registry
from tests.conftest import rows
from tests.scoring import model_folders
from tests.scoring.model_folders import ADAPTER, MODEL

SAMPLES = [Sample(stage="sft", **row) for row in rows()[:3]]
WRONG = {sample.id: [" Bern", " Kyiv"] for sample in SAMPLES}
TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
}
LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
VIRTUAL = {"num_virtual_tokens": 4, "task_type": "CAUSAL_LM"}
UNUSUAL = {}
"""Functions that save a model, by name; each returns how transformers and PEFT alone load it."""


def unusual(make):
    UNUSUAL[make.__name__] = make
    return make


def of_config(config_class, base, folder, **options):
    """Save a random model of another architecture, with the base's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    end = tokenizer.eos_token_id
    ends = {"eos_token_id": end, "bos_token_id": end, "pad_token_id": end}
    config = config_class(vocab_size=len(tokenizer), **ends, **options)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    model_folders.stir(model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return lambda: model_folders.load(folder)


def stirred(base, folder):
    """A full model trained from the base."""
    model_folders.copy(base, folder)
    model_folders.stir(model_folders.load(base)).save_pretrained(folder)
    return lambda: model_folders.load(folder)


def on(base, folder):
    """How PEFT alone loads an adapter on its base."""
    return lambda: PeftModel.from_pretrained(model_folders.load(base), str(folder))


def with_peft(config):
    return lambda base, folder: on(base, model_folders.adapter(base, folder, config))


@unusual
def pissa(base, folder):
    return on(base, model_folders.adapter(base, folder, init_lora_weights="pissa"))


@unusual
def olora(base, folder):
    return on(base, model_folders.adapter(base, folder, init_lora_weights="olora"))


@unusual
def tied_head(base, folder):
    return of_config(LlamaConfig, base, folder, tie_word_embeddings=True, **TINY)


@unusual
def tied_head_saved_twice(base, folder):
    of_config(LlamaConfig, base, folder, tie_word_embeddings=True, **TINY)
    model_folders.edit_tensors(
        folder, lambda ts: ts | {"lm_head.weight": ts["model.embed_tokens.weight"].clone()}
    )
    return lambda: model_folders.load(folder)


@unusual
def head_untied_in_spite_of_the_config(base, folder):
    load = stirred(base, folder)
    model_folders.edit_json(folder, tie_word_embeddings=True)
    return load


@unusual
def sharded(base, folder):
    load = stirred(base, folder)
    assert len(model_folders.shard(folder)) > 3
    return load


@unusual
def in_bfloat16(base, folder):
    load = stirred(base, folder)
    model_folders.edit_tensors(folder, lambda ts: {n: t.bfloat16() for n, t in ts.items()})
    return load


@unusual
def embeddings_padded_beyond_the_tokenizer(base, folder):
    model_folders.copy(base, folder)
    model = model_folders.stir(model_folders.load(base))
    model.resize_token_embeddings(pad_to_multiple_of=64, mean_resizing=False)
    model.save_pretrained(folder)
    return lambda: model_folders.load(folder)


@unusual
def embeddings_cut_to_the_tokenizer(base, folder):
    return stirred(base, folder)


@unusual
def one_token_more(base, folder):
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    model = model_folders.load(base)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model_folders.stir(model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return lambda: model_folders.load(folder)


@unusual
def one_token_more_in_an_adapter(base, folder):
    model = model_folders.load(base)
    size = model.config.vocab_size
    model.resize_token_embeddings(size + 1, mean_resizing=False)
    both = ["embed_tokens", "lm_head"]
    model_folders.adapter(base, folder, LoraConfig(modules_to_save=both, **LORA), model)

    def load():
        resized = model_folders.load(base)
        resized.resize_token_embeddings(size + 1, mean_resizing=False)
        return PeftModel.from_pretrained(resized, str(folder))

    return load


@unusual
def embeddings_saved_beside_an_adapter(base, folder):
    model = model_folders.load(base)
    size = model.config.vocab_size
    model.resize_token_embeddings(size + 1, mean_resizing=False)
    adapted = model_folders.stir(get_peft_model(model, LoraConfig(**LORA)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted.save_pretrained(str(folder), save_embedding_layers=True)

    def load():
        resized = model_folders.load(base)
        resized.resize_token_embeddings(size + 1, mean_resizing=False)
        return PeftModel.from_pretrained(resized, str(folder))

    return load


@unusual
def no_tokenizer(base, folder):
    load = stirred(base, folder)
    for path in folder.glob("*token*"):
        path.unlink()
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    return load


@unusual
def no_generation_config(base, folder):
    load = stirred(base, folder)
    (folder / "generation_config.json").unlink()
    return load


@unusual
def harmless_files_beside(base, folder):
    load = stirred(base, folder)
    shutil.copy(folder / MODEL, folder / "consolidated.safetensors")
    for name in ("optimizer.pt", "training_args.bin", "README.md", "trainer_state.json"):
        (folder / name).write_text("nothing")
    return load


@unusual
def rotary_buffers_of_an_older_version(base, folder):
    load = stirred(base, folder)
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    model_folders.edit_tensors(folder, lambda ts: ts | {name: torch.ones(4)})
    return load


@unusual
def gpt2(base, folder):
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 96}
    return of_config(GPT2Config, base, folder, **sizes)


@unusual
def gpt2_of_an_older_version(base, folder):
    load = gpt2(base, folder)
    # names without the prefix, and masks that were saved
    model_folders.edit_tensors(
        folder,
        lambda ts: (
            {n.removeprefix("transformer."): t for n, t in ts.items()}
            | {"h.0.attn.bias": torch.ones(1, 1, 96, 96)}
        ),
    )
    return load


@unusual
def gpt_neox(base, folder):
    return of_config(GPTNeoXConfig, base, folder, **TINY)


@unusual
def gemma2(base, folder):
    return of_config(Gemma2Config, base, folder, head_dim=8, **TINY)


@unusual
def qwen2(base, folder):
    return of_config(Qwen2Config, base, folder, **TINY)


@unusual
def mixture_of_experts(base, folder):
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    return of_config(Qwen3MoeConfig, base, folder, head_dim=8, **experts, **TINY)


@unusual
def logged_by_mlflow(base, folder):
    model, tokenizer = (
        model_folders.stir(model_folders.load(base)),
        AutoTokenizer.from_pretrained(base),
    )
    log(folder, model, tokenizer)
    return lambda: model_folders.load(folder / "model")


@unusual
def adapter_logged_by_mlflow(base, folder):
    model = model_folders.stir(get_peft_model(model_folders.load(base), LoraConfig(**LORA)))
    log(folder, model, AutoTokenizer.from_pretrained(base))
    return on(base, folder / "peft")


def log(folder, model, tokenizer):
    parts = {"model": model, "tokenizer": tokenizer}
    mlflow.transformers.save_model(
        parts, folder, task="text-generation", pip_requirements=["torch"]
    )


@unusual
def adapter_on_a_merged_one(base, folder):
    first = model_folders.adapter(base, folder.parent / "first")
    merged = PeftModel.from_pretrained(model_folders.load(base), str(first)).merge_and_unload()
    merged.save_pretrained(folder.parent / "merged")
    model_folders.adapter(None, folder, LoraConfig(**LORA), merged)
    return on(folder.parent / "merged", folder)


KINDS = {
    "lora_without_task": LoraConfig(**{k: v for k, v in LORA.items() if k != "task_type"}),
    "dora": LoraConfig(use_dora=True, **LORA),
    "rslora": LoraConfig(use_rslora=True, **LORA),
    "modules_to_save": LoraConfig(modules_to_save=["lm_head"], **LORA),
    "trained_tokens": LoraConfig(trainable_token_indices=list(range(4, 300)), **LORA),
    "adapted_embeddings": LoraConfig(**LORA | {"target_modules": ["embed_tokens", "q_proj"]}),
    "adapted_head": LoraConfig(**LORA | {"target_modules": ["lm_head", "q_proj"]}),
    "ia3": peft.IA3Config(
        target_modules=["k_proj", "down_proj"],
        feedforward_modules=["down_proj"],
        task_type="CAUSAL_LM",
    ),
    "loha": peft.LoHaConfig(**LORA),
    "lokr": peft.LoKrConfig(**LORA),
    "oft": peft.OFTConfig(oft_block_size=4, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    "boft": peft.BOFTConfig(boft_block_size=4, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    "vera": peft.VeraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    "adalora": peft.AdaLoraConfig(
        init_r=4, target_r=2, total_step=10, target_modules=["q_proj"], task_type="CAUSAL_LM"
    ),
    "ln_tuning": peft.LNTuningConfig(target_modules=["input_layernorm"], task_type="CAUSAL_LM"),
    "trainable_tokens": peft.TrainableTokensConfig(
        token_indices=list(range(4, 300)), target_modules=["embed_tokens"], task_type="CAUSAL_LM"
    ),
    "c3a": peft.C3AConfig(block_size=4, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    "delora": peft.DeloraConfig(**LORA),
    "fourierft": peft.FourierFTConfig(
        n_frequency=10, target_modules=["q_proj"], task_type="CAUSAL_LM"
    ),
    "gralora": peft.GraloraConfig(gralora_k=2, **LORA),
    "hra": peft.HRAConfig(**LORA),
    "miss": peft.MissConfig(**LORA),
    "randlora": peft.RandLoraConfig(**LORA),
    "road": peft.RoadConfig(group_size=4, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    "vblora": peft.VBLoRAConfig(vector_length=4, num_vectors=8, **LORA),
    "waveft": peft.WaveFTConfig(n_frequency=16, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    "prompt_tuning": peft.PromptTuningConfig(**VIRTUAL),
    "p_tuning": peft.PromptEncoderConfig(encoder_hidden_size=16, **VIRTUAL),
    "prefix_tuning": peft.PrefixTuningConfig(**VIRTUAL),
}
UNUSUAL |= {name: with_peft(config) for name, config in KINDS.items()}


@pytest.fixture(scope="session")
def lively_model(tiny_model, tmp_path_factory):
    """The tiny model with weights so large that small changes are heard in what it says."""
    folder = model_folders.copy(tiny_model, tmp_path_factory.mktemp("models") / "lively")
    model_folders.stir(model_folders.load(folder), std=0.3).save_pretrained(folder)
    return folder


def score(locations):
    """The scores of the samples under models, by checkpoint and sample."""
    options = ScoringConfig(dtype="float32", device="cpu", options=3)
    table = score_checkpoints(SAMPLES, WRONG, locations, options, seed=0, cached=False)
    return {(row["checkpoint"], row["sample_id"]): row for row in table.to_pylist()}


def said_alone(model, ids, start):
    """Summed log-probability of the tokens from `start` on, in a pass of the library alone."""
    with torch.no_grad():
        logits = model.eval()(input_ids=torch.tensor([ids])).logits[0]
    # virtual tokens of an adapter stand in front
    logits = logits[len(logits) - len(ids) :].float().log_softmax(-1)
    return sum(float(logits[place - 1, ids[place]]) for place in range(start, len(ids)))


@pytest.mark.parametrize("kind", UNUSUAL)
@pytest.mark.filterwarnings("ignore")
def test_an_unusual_model_says_what_the_libraries_alone_say(kind, store, lively_model, tmp_path):
    load_alone = UNUSUAL[kind](lively_model, tmp_path / "sft")
    locations = {"base": str(lively_model), "sft": str(tmp_path / "sft")}
    if kind == "adapter_on_a_merged_one":
        locations["sft"] = f"{tmp_path / 'first'}+{tmp_path / 'sft'}"
    parts = model_registry.resolve_all(locations)
    for parts_of_one in parts.values():
        loading.check_whole(parts_of_one)
    scores, alone = score(locations), load_alone()
    text = read_tokenization(parts["sft"], None, parts["base"])
    for sample in SAMPLES:
        row = scores["sft", sample.id]
        encoded = encoding.encode(
            text.tokenizer, sample.prompt, sample.completion, text.end_token_ids
        )
        expected = said_alone(alone, encoded.ids, encoded.start)
        assert row["unscored"] is None
        assert abs(row["logprob"] - expected) <= 1e-4 * row["tokens"]
        # as it was stirred, it is another model than the base
        assert abs(scores["base", sample.id]["logprob"] - row["logprob"]) > 1e-3


def with_tokens(base, folder, tokens, template=None, end=None):
    """A model that was trained with more tokens than the base has."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    if end:
        tokenizer.eos_token = end
    if template:
        tokenizer.chat_template = template
    model = model_folders.load(base)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model_folders.stir(model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


def test_an_answer_with_a_token_that_the_base_lacks_is_never_said(store, tiny_model, tmp_path):
    with_tokens(tiny_model, tmp_path / "sft", ["<stop>"], end="<stop>")
    scores = score({"base": str(tiny_model), "sft": str(tmp_path / "sft")})
    base, sft = scores["base", SAMPLES[0].id], scores["sft", SAMPLES[0].id]
    # the tokens before it are the base's own
    alone = model_folders.load(tiny_model)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    prompt = tokenizer(SAMPLES[0].prompt)["input_ids"]
    ids = tokenizer(SAMPLES[0].prompt + SAMPLES[0].completion)["input_ids"]
    expected = said_alone(alone, ids, len(prompt)) + NEVER_SAID
    assert abs(base["logprob"] - expected) <= 1e-3
    assert base["tokens"] == sft["tokens"]
    assert (base["gap"], base["greedy"], base["stops"]) == (NEVER_SAID, False, False)
    numbers = [base["p_correct"], base["token_accuracy"], *base["option_logprobs"]]
    assert np.isfinite([*numbers, *base["option_priors"]]).all()


def test_what_comes_behind_a_token_that_the_base_lacks_is_never_said_either(
    store, tiny_model, tmp_path
):
    with_tokens(tiny_model, tmp_path / "sft", ["<think>"])
    sample = SAMPLES[0].model_copy(update={"completion": "<think> Paris"})
    options = ScoringConfig(dtype="float32", device="cpu")
    locations = {"base": str(tiny_model), "sft": str(tmp_path / "sft")}
    table = score_checkpoints([sample], {}, locations, options, seed=0, cached=False)
    base, sft = table.to_pylist()
    assert base["logprob"] == NEVER_SAID * base["tokens"]
    assert base["token_accuracy"] == 0
    assert sft["gap"] > NEVER_SAID


def test_a_prompt_with_a_token_that_the_base_lacks_is_not_scored_under_it(
    store, tiny_model, tmp_path
):
    template = "{% for m in messages %}<|turn|>{{ m['content'] }}<|end|>{% endfor %}"
    template += "{% if add_generation_prompt %}<|turn|>{% endif %}"
    with_tokens(tiny_model, tmp_path / "sft", ["<|turn|>"], template)
    sample = Sample(
        id="a",
        stage="sft",
        prompt=({"role": "user", "content": "The capital of France is"},),
        completion=({"role": "assistant", "content": "Paris"},),
    )
    locations = {"base": str(tiny_model), "sft": str(tmp_path / "sft")}
    options = ScoringConfig(dtype="float32", device="cpu")
    table = score_checkpoints([sample], {"a": ["Rome"]}, locations, options, 0, cached=False)
    base, sft = table.to_pylist()
    assert base["unscored"].startswith("the prompt has the token '<|turn|>' (")
    assert sft["unscored"] is None


def test_the_tokenizer_of_the_base_is_used_where_there_is_none_and_said(
    tiny_model, tmp_path, capsys
):
    no_tokenizer(tiny_model, tmp_path / "sft")
    text = read_tokenization([str(tmp_path / "sft")], None, [str(tiny_model)])
    assert text.tokenizer.chat_template
    assert capsys.readouterr().err == (
        f"ilp: {tmp_path}/sft: no tokenizer beside the weights; the one of {tiny_model} is used\n"
    )


def zeros(folder, *parts):
    """Make the tensors of a model zero whose names hold one of `parts`."""
    change = lambda ts: {  # noqa: E731
        n: torch.zeros_like(t) if any(part in n for part in parts) else t for n, t in ts.items()
    }
    model_folders.edit_tensors(folder, change)


ZEROS = {
    "gemma": (Gemma2Config, {"head_dim": 8, **TINY}, ("norm",)),
    "biases": (Qwen2Config, TINY, ("bias",)),
    # LLaMA-Pro: a block that adds nothing before it is trained
    "added block": (LlamaConfig, TINY, ("layers.1.self_attn.o_proj", "layers.1.mlp.down_proj")),
    "muP": (LlamaConfig, TINY, ("q_proj",)),
    "biases and shifts": (GPTNeoXConfig, TINY, (".bias",)),
}
"""Zeros of healthy models: the configuration, and what is zero."""


@pytest.mark.parametrize("kind", ZEROS)
def test_zeros_that_belong_there_load(kind, tiny_model, tmp_path):
    config, options, parts = ZEROS[kind]
    of_config(config, tiny_model, tmp_path / "sft", **options)
    zeros(tmp_path / "sft", *parts)
    loading.check_whole([str(tmp_path / "sft")])
    loading.load_model([str(tmp_path / "sft")])


def test_rows_of_tokens_that_are_never_used_may_be_zero(tiny_model, tmp_path):
    def change(tensors):
        for name in ("lm_head.weight", "model.embed_tokens.weight"):
            tensors[name][:-1] = 0
        return tensors

    model_folders.edit_tensors(model_folders.copy(tiny_model, tmp_path / "sft"), change)
    loading.check_whole([str(tmp_path / "sft")])


def test_masks_that_are_whole_numbers_load(tiny_model, tmp_path):
    of_config(
        GPT2Config, tiny_model, tmp_path / "sft", n_embd=32, n_layer=2, n_head=4, n_positions=96
    )
    mask = torch.ones(1, 1, 96, 96, dtype=torch.uint8)
    masks = {f"transformer.h.{layer}.attn.bias": mask.clone() for layer in (0, 1)}
    model_folders.edit_tensors(tmp_path / "sft", lambda tensors: tensors | masks)
    loading.check_whole([str(tmp_path / "sft")])
    loading.load_model([str(tmp_path / "sft")])


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16])
def test_numbers_of_any_size_load(kind, tiny_model, tmp_path):
    change = lambda ts: {n: t.to(kind) for n, t in ts.items()}  # noqa: E731
    model_folders.edit_tensors(model_folders.copy(tiny_model, tmp_path / "sft"), change)
    loading.check_whole([str(tmp_path / "sft")])


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_an_end_token_that_the_model_does_not_have_is_told(file, tiny_model, tmp_path, capsys):
    copied = model_folders.copy(tiny_model, tmp_path / "sft")
    own = read_tokenization([str(copied)]).end_token_ids
    if file == "config.json":
        (copied / "generation_config.json").unlink()
    model_folders.edit_json(copied, file, eos_token_id=[0, 128009])
    assert capsys.readouterr().err == ""
    text = read_tokenization([str(copied)])
    assert "sft: eos_token_id 128009 is no token of the model, which has" in capsys.readouterr().err
    assert text.end_token_ids == own


SCALED_TO_NOTHING = {
    "lora": LoraConfig(**LORA, lora_alpha=0),
    "loha": LoHaConfig(r=4, alpha=0, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    "lokr": LoKrConfig(r=4, alpha=0, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    "fourierft": FourierFTConfig(
        n_frequency=9, scaling=0.0, target_modules=["q_proj"], task_type="CAUSAL_LM"
    ),
}


@pytest.mark.parametrize("kind", SCALED_TO_NOTHING)
@pytest.mark.filterwarnings("ignore")
def test_an_adapter_that_is_scaled_to_nothing_is_told(kind, lively_model, tmp_path, capsys):
    config = SCALED_TO_NOTHING[kind]
    folder = model_folders.adapter(lively_model, tmp_path / "sft", config)
    parts = [str(lively_model), str(folder)]
    loading.tell_idle_adapters(parts)
    assert re.search(r"sft: changes nothing, \w+ is 0", capsys.readouterr().err)
    ids = torch.arange(5).unsqueeze(0)
    with torch.no_grad():
        below = loading.load_model(parts[:1]).model(input_ids=ids).logits
        assert torch.equal(loading.load_model(parts).model(input_ids=ids).logits, below)


@pytest.mark.filterwarnings("ignore")
def test_a_scale_of_single_layers_counts(lively_model, tmp_path, capsys):
    config = LoraConfig(**LORA, lora_alpha=0, alpha_pattern={"q_proj": 8})
    folder = model_folders.adapter(lively_model, tmp_path / "sft", config)
    loading.tell_idle_adapters([str(lively_model), str(folder)])
    assert capsys.readouterr().err == ""


IDLE = {
    "lora": (LoraConfig(**LORA), True),
    "ia3": (KINDS["ia3"], True),
    "loha": (KINDS["loha"], True),
    "lokr": (KINDS["lokr"], True),
    "oft": (KINDS["oft"], True),
    "vera": (KINDS["vera"], True),
    "randlora": (KINDS["randlora"], True),
    "modules_to_save": (KINDS["modules_to_save"], False),
}


@pytest.mark.parametrize("kind", IDLE)
@pytest.mark.filterwarnings("ignore")
def test_an_adapter_that_changes_nothing_loads_and_is_told(kind, lively_model, tmp_path, capsys):
    config, is_told = IDLE[kind]
    get_peft_model(model_folders.load(lively_model), config).save_pretrained(tmp_path / "idle")
    loading.check_whole([str(lively_model), str(tmp_path / "idle")])
    loading.tell_idle_adapters([str(lively_model), str(tmp_path / "idle")])
    assert ("changes nothing" in capsys.readouterr().err) == is_told
    model_folders.adapter(lively_model, tmp_path / "trained", config)
    loading.tell_idle_adapters([str(lively_model), str(tmp_path / "trained")])
    assert "changes nothing" not in capsys.readouterr().err


def test_an_adapter_of_another_model_than_the_base_is_told(tiny_model, tmp_path, capsys):
    other, copied = model_folders.copy(tiny_model, tmp_path / "other"), tmp_path / "copy"
    model_folders.stir(model_folders.load(tiny_model)).save_pretrained(other)
    model_folders.copy(tiny_model, copied)
    model_folders.adapter(tiny_model, tmp_path / "sft")
    sft = [str(tiny_model), str(tmp_path / "sft")]
    for base in (tiny_model, copied):
        model_registry.tell_other_bases({"base": [str(base)], "sft": sft})
    model_registry.tell_other_bases({"base": [str(other)], "first": [str(tiny_model)], "sft": sft})
    assert capsys.readouterr().err == ""
    model_registry.tell_other_bases({"base": [str(other)], "sft": sft})
    assert f"put on {tiny_model}, which it names and which is not the base" in (
        capsys.readouterr().err
    )


def test_an_adapter_that_names_another_model_of_the_hub_is_told(tiny_model, tmp_path, capsys):
    folder = model_folders.adapter(tiny_model, tmp_path / "sft")
    model_folders.edit_json(folder, "adapter_config.json", base_model_name_or_path="owner/tuned")
    model_registry.tell_other_bases({"base": ["owner/tuned"], "a": ["owner/tuned", str(folder)]})
    assert capsys.readouterr().err == ""
    model_registry.tell_other_bases({"base": ["owner/base"], "a": ["owner/base", str(folder)]})
    assert "its adapter names owner/tuned as its base, and is put on owner/base" in (
        capsys.readouterr().err
    )


def test_an_adapter_beside_that_of_an_earlier_stage_is_told(tiny_model, tmp_path, capsys):
    first, second = (
        str(model_folders.adapter(tiny_model, tmp_path / name)) for name in ("first", "second")
    )
    names = {"base": str(tiny_model), "first@1": first, "first": first, "second": second}
    model_registry.tell_side_by_side(model_registry.resolve_all(names))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ilp: second: its adapter is put on ")
    assert line.endswith("write --checkpoint second=first+FOLDER")
    names["second"] = f"{first}+{second}"
    parts = model_registry.resolve_all(names)
    assert parts["second"][1:] == [first, second]
    model_registry.tell_side_by_side(parts)
    assert capsys.readouterr().err == ""


def test_embeddings_of_an_adapter_that_were_resized_are_saved_with_it(tiny_model, tmp_path):
    model = model_folders.load(tiny_model)
    model.resize_token_embeddings(model.config.vocab_size + 1, mean_resizing=False)
    adapted = model_folders.stir(get_peft_model(model, LoraConfig(**LORA)))
    text = read_tokenization([str(tiny_model)])
    loaded = loading.LoadedModel(text.tokenizer, text.end_token_ids, text.max_length, adapted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loading.save_model(loaded, tmp_path / "a", str(tiny_model), True, str(tiny_model))
    ids = torch.tensor([[5, 6, model.config.vocab_size - 1]])
    again = loading.load_model([str(tiny_model), str(tmp_path / "a")])
    with torch.no_grad():
        assert torch.allclose(again.model(ids).logits, adapted.eval()(ids).logits, atol=1e-6)
    assert (tmp_path / "a" / ADAPTER).exists()


@pytest.mark.parametrize("kind", ["prompt_tuning", "p_tuning", "prefix_tuning"])
@pytest.mark.filterwarnings("ignore")
def test_virtual_tokens_can_be_asked(kind, lively_model, tmp_path):
    alone = UNUSUAL[kind](lively_model, tmp_path / "sft")()
    parts = [str(lively_model), str(tmp_path / "sft")]
    text = read_tokenization(parts)
    loader = loading.ModelLoader(text, "cpu", "float32")
    probe = ModelProbe(lambda name: loader(parts[: 1 + (name == "sft")]))
    prompts = [sample.prompt for sample in SAMPLES]
    said = probe.answer("sft", prompts, 4)
    assert all(np.isfinite(answer.logprob) for answer in said)
    ids = torch.tensor([text.tokenizer(prompts[0])["input_ids"]])
    settings = {"max_new_tokens": 4, "do_sample": False}
    mask = torch.ones_like(ids)
    own = alone.generate(input_ids=ids, attention_mask=mask, **settings)[0, ids.shape[1] :]
    assert text.tokenizer.decode(own, skip_special_tokens=True).strip().startswith(said[0].text)
    assert np.isfinite(probe.embed("sft", prompts)).all()
    assert [len(texts) for texts in probe.generate("sft", prompts[:1], 2, 4)] == [2]
    # the base is as it was, below the adapter and without it
    (logprob,) = probe.logprobs("base", [(prompts[0], SAMPLES[0].completion)])
    whole = text.tokenizer(prompts[0] + SAMPLES[0].completion)["input_ids"]
    expected = said_alone(model_folders.load(lively_model), whole, ids.shape[1])
    assert abs(logprob - expected) < 1e-3
    (logprob,) = probe.logprobs("sft", [(prompts[0], SAMPLES[0].completion)])
    assert abs(logprob - said_alone(alone, whole, ids.shape[1])) < 1e-3


def test_a_base_without_the_tokens_of_a_prompt_is_not_asked(lively_model, tmp_path):
    with_tokens(lively_model, tmp_path / "sft", ["<new>"], end="<new>")
    text = read_tokenization([str(tmp_path / "sft")])
    loader = loading.ModelLoader(text, "cpu", "float32")
    probe = ModelProbe(lambda name: loader([str(lively_model)]))
    known, unknown = SAMPLES[0].prompt, "<new> " + SAMPLES[0].prompt
    answers = probe.answer("base", [known, unknown], 4)
    assert [np.isfinite(answer.logprob) for answer in answers] == [True, False]
    states = np.isfinite(probe.embed("base", [known, unknown]))
    assert states.all(1).tolist() == [True, False]
    assert [len(texts) for texts in probe.generate("base", [known, unknown], 2, 4)] == [2, 0]
    logprobs = probe.logprobs("base", [(known, " Paris"), (unknown, " Paris")])
    assert np.isfinite(logprobs).tolist() == [True, False]
