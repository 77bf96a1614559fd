"""Models that cannot be loaded whole: none gets a verdict, and each is told in one line."""

import math
import re

import mlflow
import pytest
import torch
from click.testing import CliRunner
from peft import CPTConfig, IA3Config, PromptTuningConfig
from safetensors.torch import save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ilp_mlflow.cli import main
from ilp_mlflow.scoring.models import adapters
from ilp_mlflow.scoring.models.weight_files import model_files
from tests.conftest import rows, write_jsonl
from tests.scoring import model_folders
from tests.scoring.model_folders import ADAPTER, MODEL

BROKEN = {}
"""What breaks a model, by its name: a function of the base, the folder and the message expected."""


def broken(message):
    """Register a function that makes a broken model, with the message that it gets."""

    def register(make):
        BROKEN[make.__name__] = make, message
        return make

    return register


def without(*parts):
    return lambda tensors: {n: t for n, t in tensors.items() if not any(p in n for p in parts)}


def renamed(old, new):
    return lambda tensors: {n.replace(old, new, 1): t for n, t in tensors.items()}


def prefixed(prefix):
    return lambda tensors: {prefix + n: t for n, t in tensors.items()}


def with_value(name, value):
    def change(tensors):
        tensors[name].view(-1)[-1] = value
        return tensors

    return change


# Full models


@broken(r"model.safetensors: 1 of the model's weights are not in the file \(lm_head.weight\)")
def head_that_was_not_saved(base, folder):
    model_folders.edit_tensors(model_folders.copy(base, folder), without("lm_head"))


@broken(r"21 of the model's weights are not in the file .*_orig_mod.lm_head.weight")
def compiled_model(base, folder):
    model_folders.edit_tensors(model_folders.copy(base, folder), prefixed("_orig_mod."))


@broken(r"21 of the model's weights are not in the file .*\(module.lm_head.weight")
def model_of_data_parallel_training(base, folder):
    model_folders.edit_tensors(model_folders.copy(base, folder), prefixed("module."))


@broken(r"are not in the file .*_fsdp_wrapped_module")
def layers_wrapped_by_fsdp(base, folder):
    change = renamed("layers.0.", "layers.0._fsdp_wrapped_module.")
    model_folders.edit_tensors(model_folders.copy(base, folder), change)


@broken(r"\(model.layers.1.mlp.down_proj.weight\): they would be random")
def one_tensor_missing(base, folder):
    model_folders.edit_tensors(model_folders.copy(base, folder), without("layers.1.mlp.down_proj"))


@broken(r"1 tensor \(v_head.summary.weight\) is not in the model")
def value_head_of_another_task(base, folder):
    change = lambda tensors: tensors | {"v_head.summary.weight": torch.zeros(1, 32)}  # noqa: E731
    model_folders.edit_tensors(model_folders.copy(base, folder), change)


@broken(r"\(model.layers.2.input_layernorm.weight, .*they would be random")
def more_layers_in_the_config(base, folder):
    model_folders.edit_json(model_folders.copy(base, folder), num_hidden_layers=3)


@broken(r"9 tensors \(model.layers.1.* are not in the model .*another number of layers")
def fewer_layers_in_the_config(base, folder):
    model_folders.edit_json(model_folders.copy(base, folder), num_hidden_layers=1)


@broken(r"k_proj.bias, .*they would be random")
def another_type_in_the_config(base, folder):
    changes = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
    model_folders.edit_json(model_folders.copy(base, folder), **changes)


@broken(r"model_type 'mistral', but architecture LlamaForCausalLM, which is another type's")
def type_and_architecture_disagree(base, folder):
    model_folders.edit_json(model_folders.copy(base, folder), model_type="mistral")


@broken(r"'t5' is not a causal language model")
def no_language_model(base, folder):
    model_folders.edit_json(model_folders.copy(base, folder), model_type="t5")


@broken(r"lm_head.weight is \d+ x 32, config.json makes it 77 x 32")
def another_vocabulary_in_the_config(base, folder):
    model_folders.edit_json(model_folders.copy(base, folder), vocab_size=77)


@broken(r"model.layers.0.mlp.down_proj.weight is 32 x 64, config.json makes it 32 x 128")
def another_width_in_the_config(base, folder):
    model_folders.edit_json(model_folders.copy(base, folder), intermediate_size=128)


@broken(r"model-00002-of-\d+.safetensors: missing, but model.safetensors.index.json names it")
def shard_that_is_missing(base, folder):
    model_folders.shard(model_folders.copy(base, folder))[1].unlink()


@broken(r"index.json: \d+ of the model's weights are not in the file")
def shard_of_which_a_part_is_there(base, folder):
    shards = model_folders.shard(model_folders.copy(base, folder))
    save_file({}, shards[0], metadata={"format": "pt"})


@broken(r"index.json: not a valid index")
def index_that_is_cut(base, folder):
    model_folders.shard(model_folders.copy(base, folder))
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text()[:50])


@broken(r"model-00001-of.* is there, but neither model.safetensors nor")
def shards_without_their_index(base, folder):
    model_folders.shard(model_folders.copy(base, folder))
    (folder / "model.safetensors.index.json").unlink()


@broken(r"model.safetensors: model.norm.weight is not finite")
def one_nan(base, folder):
    model_folders.edit_tensors(
        model_folders.copy(base, folder), with_value("model.norm.weight", math.nan)
    )


@broken(r"model.layers.1.self_attn.q_proj.weight is not finite")
def one_infinite_weight(base, folder):
    name = "model.layers.1.self_attn.q_proj.weight"
    model_folders.edit_tensors(model_folders.copy(base, folder), with_value(name, math.inf))


@broken(r"model-00003.*safetensors: .* is not finite")
def infinity_in_a_shard_in_bfloat16(base, folder):
    copied = model_folders.copy(base, folder)
    model_folders.edit_tensors(copied, lambda ts: {n: t.bfloat16() for n, t in ts.items()})
    path = model_folders.shard(copied)[2]
    change = lambda ts: {n: torch.full_like(t, -math.inf) for n, t in ts.items()}  # noqa: E731
    model_folders.edit_tensors(folder, change, path.name)


def filled(value, *parts):
    """Of the tensors whose names hold one of `parts` (all where there are none) every value."""

    def change(tensors):
        for name, tensor in tensors.items():
            if not parts or any(part in name for part in parts):
                tensors[name] = torch.full_like(tensor, value)
        return tensors

    return change


def stored_as(kind, *parts):
    def change(tensors):
        for name, tensor in tensors.items():
            if any(part in name for part in parts):
                tensors[name] = (tensor * 100).to(kind)
        return tensors

    return change


@broken(r"model.safetensors: model.layers.0.self_attn.k_proj.weight is stored as I8, quantised")
def whole_numbers_without_their_scales(base, folder):
    change = stored_as(torch.int8, "k_proj", "q_proj")
    model_folders.edit_tensors(model_folders.copy(base, folder), change)


@broken(r"lm_head.weight is stored as U8, quantised, and no quantization_config")
def head_of_packed_numbers(base, folder):
    change = stored_as(torch.uint8, "lm_head")
    model_folders.edit_tensors(model_folders.copy(base, folder), change)


@broken(r"model.layers.1.mlp.up_proj.weight is stored as F8_E4M3, quantised")
def numbers_of_one_byte_without_their_scales(base, folder):
    change = stored_as(torch.float8_e4m3fn, "layers.1.mlp.up_proj")
    model_folders.edit_tensors(model_folders.copy(base, folder), change)


@broken(r"model.layers.0.self_attn.k_proj.weight is stored as BOOL, quantised")
def signs_alone(base, folder):
    change = stored_as(torch.bool, "k_proj")
    model_folders.edit_tensors(model_folders.copy(base, folder), change)


@broken(r"model.layers.0.self_attn.k_proj.weight is stored as I8, quantised")
def quantised_by_a_method_that_nobody_knows(base, folder):
    change = stored_as(torch.int8, "k_proj")
    model_folders.edit_tensors(model_folders.copy(base, folder), change)
    model_folders.edit_json(folder, quantization_config={"quant_method": "mine"})


@broken(r"every matrix of model.layers.0 is all zero")
def zeros_beside_a_quantisation_that_is_null(base, folder):
    model_folders.edit_tensors(model_folders.copy(base, folder), filled(0, "layers.0."))
    model_folders.edit_json(folder, quantization_config=None)


@broken(r"generation_config.json: eos_token_id \[True\] is no id of a token")
def end_token_that_is_a_word(base, folder):
    path = model_folders.copy(base, folder) / "generation_config.json"
    path.write_text('{"eos_token_id": true}')


@broken(r"lora_A.weight is stored as I8, quantised")
def adapter_of_whole_numbers(base, folder):
    change = stored_as(torch.int8, "lora_A")
    model_folders.edit_tensors(model_folders.adapter(base, folder), change, ADAPTER)


@broken(r"model.safetensors: (model.embed_tokens|lm_head).weight is all zero")
def nothing_but_zeros(base, folder):
    model_folders.edit_tensors(model_folders.copy(base, folder), filled(0))


@broken(
    r"model.safetensors: model.embed_tokens.weight is all zero, so .*: the file was not written"
)
def embeddings_of_zeros(base, folder):
    model_folders.edit_tensors(model_folders.copy(base, folder), filled(0, "embed_tokens"))


@broken(r"model.safetensors: lm_head.weight is all zero")
def head_of_negative_zeros(base, folder):
    model_folders.edit_tensors(model_folders.copy(base, folder), filled(-0.0, "lm_head"))


@broken(r"every matrix of model.layers.1 is all zero \(model.layers.1.self_attn.q_proj.weight\)")
def layer_of_zeros(base, folder):
    change = filled(0, "layers.1.self_attn", "layers.1.mlp")
    model_folders.edit_tensors(model_folders.copy(base, folder), change)


@broken(r"model-0000\d-of.*: every matrix of model.layers.0 is all zero")
def layer_of_zeros_in_several_shards(base, folder):
    model_folders.shard(model_folders.copy(base, folder))
    for path in folder.glob("model-*.safetensors"):
        model_folders.edit_tensors(folder, filled(0, "layers.0."), path.name)


@broken(r"model.norm.weight is all zero")
def last_norm_of_zeros(base, folder):
    model_folders.edit_tensors(model_folders.copy(base, folder), filled(0, "model.norm"))


@broken(r"model.safetensors: model.embed_tokens.weight is 0.5 everywhere, so nothing of what")
def embeddings_of_one_value(base, folder):
    model_folders.edit_tensors(model_folders.copy(base, folder), filled(0.5, "embed_tokens"))


@broken(r"every matrix of model.layers.1 is 1 everywhere")
def layer_of_ones(base, folder):
    change = filled(1, "layers.1.self_attn", "layers.1.mlp")
    model_folders.edit_tensors(model_folders.copy(base, folder), change)


@broken(r"config.json says rope_theta -1, which has to be above zero; take the config.json")
def negative_rotation(base, folder):
    rope = {"rope_type": "default", "rope_theta": -1}
    model_folders.edit_json(model_folders.copy(base, folder), rope_parameters=rope)


@broken(r"config.json says max_position_embeddings 0, which has to be above zero")
def without_positions(base, folder):
    model_folders.edit_json(model_folders.copy(base, folder), max_position_embeddings=0)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"


@broken(r"sft/model.safetensors: a git-lfs pointer, not the file itself; run 'git lfs pull'")
def weights_that_were_not_fetched(base, folder):
    (model_folders.copy(base, folder) / MODEL).write_text(POINTER)


@broken(r"model-00002-of-.*: a git-lfs pointer")
def shard_that_was_not_fetched(base, folder):
    model_folders.shard(model_folders.copy(base, folder))[1].write_text(POINTER)


@broken(r"adapter_model.safetensors: a git-lfs pointer")
def adapter_that_was_not_fetched(base, folder):
    (model_folders.adapter(base, folder) / ADAPTER).write_text(POINTER)


@broken(r"tokenizer.json: a git-lfs pointer")
def tokenizer_that_was_not_fetched(base, folder):
    (model_folders.copy(base, folder) / "tokenizer.json").write_text(POINTER)


@broken(r"model.gguf: a git-lfs pointer")
def gguf_that_was_not_fetched(base, folder):
    (model_folders.copy(base, folder) / MODEL).unlink()
    (folder / "model.gguf").write_text(POINTER)


@broken(r"model.safetensors: damaged")
def file_that_is_cut(base, folder):
    path = model_folders.copy(base, folder) / MODEL
    path.write_bytes(path.read_bytes()[:-100])


@broken(r"21 of the model's weights are not in the file")
def file_without_tensors(base, folder):
    model_folders.edit_tensors(model_folders.copy(base, folder), lambda tensors: {})


@broken(r"cannot be read")
def config_that_is_cut(base, folder):
    path = model_folders.copy(base, folder) / "config.json"
    path.write_text(path.read_text()[:80])


@broken(r"cannot be read \(.*vocab_size.*\); copy or download its config.json again")
def text_for_a_number_in_the_config(base, folder):
    model_folders.edit_json(model_folders.copy(base, folder), vocab_size="many")


@broken(r"cannot be read \(.*float99.*\); copy or download its config.json again")
def type_of_numbers_that_is_none(base, folder):
    model_folders.edit_json(model_folders.copy(base, folder), dtype="float99")


@broken(r"cannot be loaded \('nope'\); take the config.json that these weights were saved with")
def function_that_is_none(base, folder):
    model_folders.edit_json(model_folders.copy(base, folder), hidden_act="nope")


@broken(r"generation_config.json: cannot be read .*; copy or download it again")
def end_tokens_that_are_cut(base, folder):
    (model_folders.copy(base, folder) / "generation_config.json").write_text("{")


@broken(r"generation_config.json: eos_token_id \['x'\] is no id of a token")
def end_token_that_is_no_number(base, folder):
    (model_folders.copy(base, folder) / "generation_config.json").write_text(
        '{"eos_token_id": "x"}'
    )


@broken(r"no usable tokenizer .*; copy or download its files again")
def tokenizer_that_is_cut(base, folder):
    path = model_folders.copy(base, folder) / "tokenizer.json"
    path.write_text(path.read_text()[:100])


@broken(r"index.json: names no file")
def index_of_nothing(base, folder):
    model_folders.shard(model_folders.copy(base, folder))
    index = folder / "model.safetensors.index.json"
    index.write_text('{"metadata": {}, "weight_map": {}}')


@broken(r"checkpoint 'base' has another vocabulary than the last one: token 2[01] is ")
def tokens_in_another_order(base, folder):
    copied = model_folders.copy(base, folder)
    tokenizer = AutoTokenizer.from_pretrained(base)
    first, second = tokenizer.convert_ids_to_tokens([20, 21])
    text = (copied / "tokenizer.json").read_text(encoding="utf-8")
    text = text.replace(f'"{first}": 20,', f'"{first}": 2100,').replace(
        f'"{second}": 21,', f'"{second}": 20,'
    )
    text = text.replace(f'"{first}": 2100,', f'"{first}": 21,')
    (copied / "tokenizer.json").write_text(text, encoding="utf-8")


# Adapters


@broken(r"none of the adapter's weights is in this model \(28 keys missing, for example base_model")
def adapter_of_a_wrapper(base, folder):
    model_folders.adapter(base, folder)
    change = renamed("model.model.", "model.model.language_model.")
    model_folders.edit_tensors(folder, change, ADAPTER)


@broken(r"none of the adapter's weights is in this model")
def adapter_of_another_name(base, folder):
    model_folders.adapter(base, folder)
    change = lambda ts: {n.replace(".weight", ".second.weight"): t for n, t in ts.items()}  # noqa: E731
    model_folders.edit_tensors(folder, change, ADAPTER)


@broken(r"adapter_model.safetensors: empty")
def adapter_without_tensors(base, folder):
    model_folders.edit_tensors(model_folders.adapter(base, folder), lambda ts: {}, ADAPTER)


@broken(r"14 of the adapter's weights are not in the file \(base_model.*lora_B")
def half_of_an_adapter(base, folder):
    model_folders.edit_tensors(model_folders.adapter(base, folder), without("lora_B"), ADAPTER)


@broken(r"24 tensors \(base_model.model.model.layers.0.* are not in this model")
def adapter_with_fewer_targets_in_the_config(base, folder):
    model_folders.adapter(base, folder)
    model_folders.edit_json(folder, "adapter_config.json", target_modules=["q_proj"])


@broken(r"lora_A.weight is 4 x 64, in this model it is 8 x 64")
def adapter_of_another_rank(base, folder):
    model_folders.edit_json(model_folders.adapter(base, folder), "adapter_config.json", r=8)


@broken(r"lora_[AB].weight is .*, in this model it is .*; give the base that it was trained on")
def adapter_of_a_wider_model(base, folder):
    config = LlamaConfig.from_pretrained(base)
    config.hidden_size = 64
    model_folders.adapter(base, folder, model=LlamaForCausalLM(config))


@broken(r"14 tensors \(base_model.model.model.layers.2.* are not in this model")
def adapter_of_a_deeper_model(base, folder):
    config = LlamaConfig.from_pretrained(base)
    config.num_hidden_layers = 3
    model_folders.adapter(base, folder, model=LlamaForCausalLM(config))


@broken(r"adapter_model.safetensors: base_model.*lora_B.weight is not finite")
def nan_in_an_adapter(base, folder):
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"
    model_folders.edit_tensors(
        model_folders.adapter(base, folder), with_value(name, math.nan), ADAPTER
    )


@broken(r"1 of the adapter's weights are not in the file \(base_model.model.lm_head.weight\)")
def module_that_was_not_saved(base, folder):
    model_folders.adapter(base, folder, modules_to_save=["lm_head"], target_modules=["q_proj"])
    model_folders.edit_tensors(folder, without("lm_head"), ADAPTER)


@broken(r"of the adapter's weights are not in the file .*bias")
def biases_that_were_not_saved(base, folder):
    folder_of_base = folder.parent / "with_bias"
    config = LlamaConfig.from_pretrained(base)
    config.attention_bias = True
    LlamaForCausalLM(config).save_pretrained(folder_of_base)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder_of_base)
    model_folders.adapter(folder_of_base, folder, bias="all", target_modules=["q_proj"])
    model_folders.edit_tensors(folder, without("bias"), ADAPTER)


@broken(r"an adapter of kind CPT cannot be scored; merge it into its base first")
def adapter_of_a_kind_that_is_not_read(base, folder):
    config = CPTConfig(task_type="CAUSAL_LM", cpt_token_ids=[5], cpt_mask=[1])
    config.cpt_tokens_type_mask = [1]
    config.save_pretrained(str(folder))
    save_file({"prompt_embeddings": torch.zeros(1, 32)}, folder / ADAPTER)


@broken(r"an activated LoRA \(alora_invocation_tokens\) cannot be scored")
def activated_lora(base, folder):
    model_folders.adapter(base, folder, alora_invocation_tokens=[5, 6])


@broken(r"an adapter for SEQ_CLS, not for a causal language model")
def adapter_of_a_classifier(base, folder):
    model_folders.edit_json(
        model_folders.adapter(base, folder), "adapter_config.json", task_type="SEQ_CLS"
    )


@broken(r"prompt_embeddings is 4 x 64, in this model it is 4 x 32")
def virtual_tokens_of_a_wider_model(base, folder):
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    model_folders.adapter(base, folder, config)
    save_file({"prompt_embeddings": torch.zeros(4, 64)}, folder / ADAPTER)


@broken(r"the input embeddings have \d+ rows, the model \d+, and the file does not have both ends")
def embeddings_resized_at_one_end(base, folder):
    model = model_folders.load(base)
    model.resize_token_embeddings(model.config.vocab_size + 1, mean_resizing=False)
    both = ["embed_tokens", "lm_head"]
    model_folders.adapter(
        base, folder, model=model, modules_to_save=both, target_modules=["q_proj"]
    )
    model_folders.edit_tensors(folder, without("lm_head"), ADAPTER)
    changes = {"modules_to_save": ["embed_tokens"]}
    model_folders.edit_json(folder, "adapter_config.json", **changes)


@broken(r"Target modules .* not found in the base model|not an adapter for")
def targets_that_are_nowhere(base, folder):
    model_folders.edit_json(
        model_folders.adapter(base, folder), "adapter_config.json", target_modules=["c_attn"]
    )


@broken(r"trained on another base than .*: \S+ has other values in model.safetensors")
def adapter_of_another_base(base, folder):
    other = model_folders.copy(base, folder.parent / "other")
    model_folders.stir(model_folders.load(base), seed=5).save_pretrained(other)
    model_folders.adapter(base, folder)
    adapters.record_base(folder, model_files(str(other)))


@broken(r"trained on another base than .*: lm_head.weight has other values in model.safetensors")
def adapter_of_a_base_with_one_other_value(base, folder):
    other = model_folders.copy(base, folder.parent / "other")
    model_folders.edit_tensors(other, with_value("lm_head.weight", 0.5))
    model_folders.adapter(base, folder)
    adapters.record_base(folder, model_files(str(other)))


@broken(r"beside adapter_model.safetensors there must be its adapter_config.json")
def adapter_without_its_config(base, folder):
    (model_folders.adapter(base, folder) / "adapter_config.json").unlink()


@broken(r"not an adapter for .*; give the base that it was trained on")
def rank_that_is_no_number(base, folder):
    model_folders.edit_json(model_folders.adapter(base, folder), "adapter_config.json", r="four")


@broken(r"a LoRA that began as pissa_niter_4 sits on weights that are not its base's")
def adapter_that_took_a_random_part_of_its_base(base, folder):
    model_folders.adapter(base, folder, init_lora_weights="pissa_niter_4")


@broken(r"adapter_config.json: has no peft_type")
def config_of_no_adapter(base, folder):
    (model_folders.adapter(base, folder) / "adapter_config.json").write_text("{}")


@broken(r"adapter_config.json: cannot be read|not a valid adapter configuration")
def adapter_config_that_is_cut(base, folder):
    model_folders.adapter(base, folder)
    (folder / "adapter_config.json").write_text("{")


@broken(r"of the adapter's weights are not in the file|none of the adapter's weights")
def another_kind_in_the_config(base, folder):
    model_folders.adapter(base, folder, target_modules=["k_proj"])
    config = IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj"], feedforward_modules=[])
    config.save_pretrained(str(folder))


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_model_gets_no_verdict_and_no_run(kind, store, tiny_model, tmp_path):
    make, message = BROKEN[kind]
    folder = tmp_path / "sft"
    make(tiny_model, folder)
    data = write_jsonl(tmp_path / "rows.jsonl", rows())
    base = tmp_path / "with_bias" if (tmp_path / "with_bias").exists() else tiny_model
    arguments = [f"--checkpoint=base={base}", f"--checkpoint=sft={folder}", f"--data={data}"]
    result = CliRunner().invoke(main, ["diagnose", *arguments])
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("ilp: ")
    assert re.search(message, lines[0]), lines[0]
    assert mlflow.search_runs(search_all_experiments=True).empty


def test_there_are_many_kinds():
    assert len(BROKEN) >= 25
