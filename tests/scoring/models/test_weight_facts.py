"""Copies of tiny models as people make them: which are whole, what the others lost, and which are no copies."""

import pytest
import torch
from peft import LoHaConfig, LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ilp_mlflow.scoring.models import loading
from ilp_mlflow.scoring.models.weight_facts import find_apart, find_copies, read_weight_facts
from tests.scoring import model_folders
from tests.scoring.model_folders import ADAPTER

pytestmark = pytest.mark.filterwarnings("ignore")
LORA = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


@pytest.fixture(scope="module")
def base(tiny_model, tmp_path_factory):
    """The tiny model, wide enough for rows to be quantised in blocks."""
    return model_of(tiny_model, tmp_path_factory.mktemp("base") / "base", seed=0)


def model_of(tokenizer, folder, seed, **options):
    """Save a random Llama with the tokenizer of another model."""
    torch.manual_seed(seed)
    text = AutoTokenizer.from_pretrained(tokenizer)
    config = LlamaConfig(
        vocab_size=len(text),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=96,
        eos_token_id=text.eos_token_id,
        pad_token_id=text.pad_token_id,
        **options,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    text.save_pretrained(folder)
    return folder


def train(base, folder, config=None, seed=1, std=0.02, **options):
    """Save an adapter that changes a few percent of the base."""
    from peft import get_peft_model

    config = config or LoraConfig(**(LORA | options))
    model = get_peft_model(model_folders.load(base), config)
    model_folders.stir(model, seed=seed, std=std).save_pretrained(str(folder))
    return folder


def merge(base, adapter, folder, dtype="float32"):
    """Merge as people do: with PEFT alone, saved beside the base's tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    merged.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def copies(**folders):
    """What is found of checkpoints, base first, each a folder or a list of parts."""
    parts = {}
    for name, folder in folders.items():
        parts[name] = [str(part) for part in (folder if isinstance(folder, list) else [folder])]
    return find_copies(parts)


def copy_of(base, adapter, folder):
    """The one copy that is found in base, adapter, copy; None where it is none."""
    found = copies(base=base, adapter=[base, adapter], copy=folder)
    return found[0] if found else None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_healthy_merge_is_the_same_within_the_rounding_of_its_type(base, tmp_path, dtype):
    adapter = train(base, tmp_path / "adapter")
    found = copy_of(base, adapter, merge(base, adapter, tmp_path / "merged", dtype))
    assert (found.source, found.holds, found.comparison.relation) == ("adapter", "adapter", "same")
    assert found.comparison.lost == found.settings == found.reading == ()
    assert found.comparison.error < 0.01 < found.comparison.change


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(**LORA, use_dora=True),
        LoraConfig(**LORA, use_rslora=True, modules_to_save=["lm_head"]),
        LoraConfig(**LORA, bias="all"),
        LoHaConfig(r=4, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM"),
    ],
    ids=["dora", "modules_to_save", "bias", "loha"],
)
def test_adapters_of_all_kinds_are_merged_to_be_compared(base, tmp_path, config):
    # what is multiplied by itself is small
    adapter = train(base, tmp_path / "adapter", config, std=0.2)
    found = copy_of(base, adapter, merge(base, adapter, tmp_path / "merged"))
    assert found.comparison.relation == "same"


def test_a_merge_into_tied_embeddings_has_the_change_of_one_end_in_both(tiny_model, tmp_path):
    tied = model_of(tiny_model, tmp_path / "tied", 0, tie_word_embeddings=True)
    adapter = train(tied, tmp_path / "adapter", target_modules=["q_proj", "lm_head"])
    found = copy_of(tied, adapter, merge(tied, adapter, tmp_path / "merged"))
    assert found.comparison.relation == "tied"
    assert found.comparison.lost == ("model.embed_tokens.weight",)


def test_tied_ends_are_apart_once_an_adapter_of_one_of_them_is_merged(tiny_model, tmp_path):
    tied = model_of(tiny_model, tmp_path / "tied", 0, tie_word_embeddings=True)
    adapter = train(tied, tmp_path / "adapter", target_modules=["q_proj", "lm_head"])
    parts = [str(tied), str(adapter)]
    apart, merged = loading.load_model(parts), loading.load_model(parts, merge=True)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        difference = apart.model.eval()(ids).logits - merged.model.eval()(ids).logits
    assert difference.abs().max() < 1e-5
    loading.save_model(merged, tmp_path / "saved", "", with_tokenizer=False)
    again = loading.load_model([str(tmp_path / "saved")])
    with torch.no_grad():
        difference = merged.model(ids).logits - again.model.eval()(ids).logits
    assert difference.abs().max() < 1e-6


def test_a_head_of_its_own_that_is_not_saved_since_the_config_ties_it(base, tmp_path):
    adapter = train(base, tmp_path / "adapter")
    merged = merge(base, adapter, tmp_path / "merged")
    model_folders.edit_json(merged, tie_word_embeddings=True)
    model_folders.edit_tensors(
        merged, lambda tensors: {n: t for n, t in tensors.items() if n != "lm_head.weight"}
    )
    found = copy_of(base, adapter, merged)
    assert (found.comparison.relation, found.comparison.lost) == ("tied", ("lm_head.weight",))


def test_tensors_that_merging_left_out_are_named(base, tmp_path):
    adapter = train(base, tmp_path / "adapter")
    merged = merge(base, adapter, tmp_path / "merged")
    before = model_folders.load(base).state_dict()
    lost = ["model.layers.0.mlp.up_proj.weight", "model.layers.1.self_attn.q_proj.weight"]
    model_folders.edit_tensors(merged, lambda tensors: tensors | {n: before[n] for n in lost})
    found = copy_of(base, adapter, merged)
    assert (found.comparison.relation, list(found.comparison.lost)) == ("lost", lost)


def test_modules_saved_with_the_adapter_that_a_merge_lost(base, tmp_path):
    adapter = train(base, tmp_path / "adapter", modules_to_save=["lm_head", "embed_tokens"])
    merged = merge(base, adapter, tmp_path / "merged", "bfloat16")
    before = AutoModelForCausalLM.from_pretrained(base, dtype="bfloat16").state_dict()
    lost = ["lm_head.weight", "model.embed_tokens.weight"]
    model_folders.edit_tensors(merged, lambda tensors: tensors | {n: before[n] for n in lost})
    found = copy_of(base, adapter, merged)
    assert (found.comparison.relation, sorted(found.comparison.lost)) == ("lost", lost)


def test_a_base_that_was_saved_in_place_of_the_merged_model(base, tmp_path):
    adapter = train(base, tmp_path / "adapter")
    AutoModelForCausalLM.from_pretrained(base, dtype="bfloat16").save_pretrained(tmp_path / "copy")
    assert copy_of(base, adapter, tmp_path / "copy").comparison.relation == "base"


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_an_adapter_that_was_merged_with_another_scale(base, tmp_path, scale):
    adapter = train(base, tmp_path / "adapter")
    other = model_folders.copy(adapter, tmp_path / "other")
    model_folders.edit_json(other, "adapter_config.json", lora_alpha=8 * scale)
    found = copy_of(base, adapter, merge(base, other, tmp_path / "merged"))
    assert found.comparison.relation == "scaled"
    assert found.comparison.held == pytest.approx(scale, abs=0.01)


def noised(base, folder, share):
    """The base with noise in all its matrices, of a share of their size."""
    model = model_folders.load(base)
    torch.manual_seed(3)
    for weights in model.parameters():
        weights.data += share * weights.std() * torch.randn_like(weights) * (weights.dim() > 1)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_a_merge_into_a_base_that_is_akin_or_training_after_it(base, tmp_path, share):
    adapter = train(base, tmp_path / "adapter")
    merged = merge(noised(base, tmp_path / "other", share), adapter, tmp_path / "merged")
    found = copy_of(base, adapter, merged)
    assert (found.comparison.relation, found.may_be_trained) == ("other_weights", True)
    assert found.comparison.apart == pytest.approx(share, rel=0.1)


def test_other_weights_without_the_change_or_near_those_of_the_base_are_no_copy(base, tmp_path):
    adapter = train(base, tmp_path / "adapter")
    # training after a merge moves weights by a few percent
    near = merge(noised(base, tmp_path / "near", 0.04), adapter, tmp_path / "merged")
    assert copy_of(base, adapter, near) is None
    assert copy_of(base, adapter, noised(base, tmp_path / "other", 0.5)) is None


def test_a_merge_into_another_base(base, tmp_path):
    adapter = train(base, tmp_path / "adapter")
    other = model_of(base, tmp_path / "other", seed=7)
    merged = merge(other, adapter, tmp_path / "merged")
    assert copy_of(base, adapter, merged).comparison.relation == "other_base"
    # a base that was trained from the one that is given is too close to tell from a training
    near = model_folders.copy(base, tmp_path / "near")
    model_folders.stir(model_folders.load(base), std=1e-3).save_pretrained(near)
    assert copy_of(base, adapter, merge(near, adapter, tmp_path / "merged_near")) is None


def quantise(tensor, bits):
    """A matrix rounded to levels times a scale: of every row, in 4 bits of every block of 32."""
    if tensor.dim() < 2:
        return tensor
    largest = 2 ** (bits - 1) - 1
    rows = tensor.reshape(-1, 32) if bits == 4 else tensor
    # the row of the padding token is 0
    scale = rows.abs().amax(dim=1, keepdim=True).clamp(min=1e-9) / largest
    return ((rows / scale).round() * scale).reshape(tensor.shape)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_copy_is_coarser(base, tmp_path, bits):
    adapter = train(base, tmp_path / "adapter")
    merged = merge(base, adapter, tmp_path / "merged")
    model_folders.edit_tensors(merged, lambda ts: {n: quantise(t, bits) for n, t in ts.items()})
    found = copy_of(base, adapter, merged)
    assert found.comparison.relation == "quantised"
    assert found.comparison.error > 0.001
    # merged into a base that was quantised before: the change is whole, the rest is coarse
    coarse = model_folders.copy(base, tmp_path / "coarse")
    model_folders.edit_tensors(coarse, lambda ts: {n: quantise(t, bits) for n, t in ts.items()})
    found = copy_of(base, adapter, merge(coarse, adapter, tmp_path / "merged_coarse"))
    assert found.comparison.relation == "quantised"


def test_a_copy_whose_configuration_says_that_it_is_quantised(base, tmp_path):
    adapter = train(base, tmp_path / "adapter")
    merged = merge(base, adapter, tmp_path / "merged")
    quantisation = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    model_folders.edit_json(merged, quantization_config=quantisation)
    found = copy_of(base, adapter, merged)
    assert (found.form, found.comparison) == ("bitsandbytes", None)


def test_a_copy_of_the_first_of_two_adapters(base, tmp_path):
    first, second = (
        train(base, tmp_path / name, seed=seed) for seed, name in ((1, "first"), (2, "second"))
    )
    merged = merge(base, first, tmp_path / "merged")
    (found,) = copies(base=base, first=[base, first], second=[base, first, second], merged=merged)
    assert (found.source, found.holds) == ("second", "first")
    assert found.comparison.relation == "same"


def test_a_merge_of_both_adapters_shows_that_one_is_on_the_other(base, tmp_path):
    first, second = (
        train(base, tmp_path / name, seed=seed) for seed, name in ((1, "first"), (2, "second"))
    )
    merged = merge(merge(base, first, tmp_path / "one"), second, tmp_path / "both")
    (found,) = copies(base=base, first=[base, first], second=[base, second], merged=merged)
    assert (found.holds, found.stacked_on) == ("second", "first")


def test_a_copy_of_a_full_model_in_another_type(base, tmp_path):
    trained = model_folders.copy(base, tmp_path / "trained")
    model_folders.stir(model_folders.load(base), std=1e-3).save_pretrained(trained)
    copy = model_folders.copy(base, tmp_path / "copy")
    AutoModelForCausalLM.from_pretrained(trained, dtype="bfloat16").save_pretrained(copy)
    (found,) = copies(base=base, trained=trained, copy=copy)
    assert (found.holds, found.comparison.relation) == ("trained", "same")


@pytest.mark.parametrize("std", [1e-5, 1e-3, 0.005])
def test_a_model_that_was_trained_further_is_no_copy(base, tmp_path, std):
    adapter = train(base, tmp_path / "adapter")
    merged = merge(base, adapter, tmp_path / "merged")
    further = model_folders.copy(merged, tmp_path / "further")
    model_folders.stir(model_folders.load(merged), std=std).save_pretrained(further)
    found = copy_of(base, adapter, further)
    # weights that moved far may be those of another base, too
    assert found is None or (std == 0.005 and found.may_be_trained)
    assert copies(base=base, first=merged, second=further) == []
    assert read_weight_facts({"base": [str(base)], "sft": [str(further)]}).unchanged == {}


def test_padded_embeddings_and_shards_are_the_same_weights(base, tmp_path):
    adapter = train(base, tmp_path / "adapter")
    merged = merge(base, adapter, tmp_path / "merged")
    model = model_folders.load(merged)
    model.resize_token_embeddings(pad_to_multiple_of=64, mean_resizing=False)
    model.save_pretrained(merged)
    model_folders.shard(merged, "100KB")
    assert copy_of(base, adapter, merged).comparison.relation == "same"


def test_a_copy_with_another_configuration_tokenizer_and_end_token(base, tmp_path):
    adapter = train(base, tmp_path / "adapter")
    merged = merge(base, adapter, tmp_path / "merged")
    model_folders.edit_json(merged, rms_norm_eps=0.1)
    model_folders.edit_json(merged, "generation_config.json", eos_token_id=7)
    (merged / "chat_template.jinja").write_text("{{ messages[0].content }}")
    found = copy_of(base, adapter, merged)
    assert found.comparison.relation == "same"
    assert found.settings == ("rms_norm_eps 0.1 (1e-06)",)
    assert found.reading == ("chat template", "end tokens")


def test_checkpoints_that_do_nothing_are_seen_without_a_model(base, tmp_path):
    from peft import get_peft_model

    idle = tmp_path / "idle"
    get_peft_model(model_folders.load(base), LoraConfig(**LORA)).save_pretrained(idle)
    adapter = train(base, tmp_path / "adapter")
    other_files = model_folders.copy(base, tmp_path / "other_files")
    model_folders.shard(other_files, "100KB")
    continued = model_folders.copy(adapter, tmp_path / "continued")
    facts = read_weight_facts(
        {
            "base": [str(base)],
            "idle": [str(base), str(idle)],
            "full": [str(other_files)],
            "adapter": [str(base), str(adapter)],
            "adapter@1": [str(base), str(adapter)],
            "continued": [str(base), str(continued)],
        }
    )
    reason = "its weights are those before training"
    assert facts.idle == {"idle": f"{idle / ADAPTER}: {reason}"}
    assert facts.unchanged == {"full": "base", "continued": "adapter"}


def test_an_adapter_of_its_own_is_apart_and_one_that_was_trained_on_is_not(base, tmp_path):
    first, second = (
        train(base, tmp_path / name, seed=seed) for seed, name in ((1, "first"), (2, "second"))
    )
    parts = {"base": [str(base)], "first": [str(base), str(first)]}
    assert find_apart(parts | {"second": [str(base), str(second)]}) == {"second": "first"}
    assert find_apart(parts | {"second": [str(base), str(first), str(second)]}) == {}
    continued = model_folders.copy(first, tmp_path / "continued")
    model_folders.edit_tensors(
        continued, lambda ts: {n: t + 0.2 * t.std() for n, t in ts.items()}, ADAPTER
    )
    assert find_apart(parts | {"second": [str(base), str(continued)]}) == {}


def test_an_adapter_that_names_a_base_which_is_not_here_says_so(base, tmp_path):
    adapter = train(base, tmp_path / "adapter")
    elsewhere = model_folders.copy(adapter, tmp_path / "elsewhere")
    model_folders.edit_json(
        elsewhere, "adapter_config.json", base_model_name_or_path="/mnt/models/other"
    )
    parts = {
        "base": [str(base)],
        "here": [str(base), str(adapter)],
        "elsewhere": [str(base), str(elsewhere)],
    }
    assert read_weight_facts(parts).named_bases == {"elsewhere": "/mnt/models/other"}


def with_new_ends(folder, target, names, rows=None):
    """A model some of whose embeddings were made anew, all of them or so many rows."""
    model = model_folders.load(folder)
    torch.manual_seed(5)
    for name, weights in model.named_parameters():
        if name in names:
            made = weights.std() * torch.randn_like(weights)
            weights.data[:rows] = made[:rows]
    model.save_pretrained(target)
    return target


def remade(base, trained):
    return read_weight_facts({"base": [str(base)], "sft": [str(trained)]}).remade


ENDS = ("model.embed_tokens.weight", "lm_head.weight")


@pytest.mark.parametrize("names", [ENDS, ENDS[:1], ENDS[1:]])
def test_embeddings_that_were_made_anew_are_named(base, tmp_path, names):
    trained = tmp_path / "trained"
    model_folders.stir(model_folders.load(base), std=0.002).save_pretrained(trained)
    assert remade(base, trained) == {}
    assert remade(base, with_new_ends(trained, tmp_path / "new", names)) == {"sft": names}
    # a few rows may be new, or trained far
    few = with_new_ends(trained, tmp_path / "few", names, rows=20)
    assert remade(base, few) == {}


def test_resized_embeddings_and_other_models_are_not_made_anew(base, tmp_path):
    model = model_folders.load(base)
    model.resize_token_embeddings(model.config.vocab_size + 64)
    model.save_pretrained(tmp_path / "larger")
    assert remade(base, tmp_path / "larger") == {}
    assert remade(base, model_of(base, tmp_path / "other", seed=9)) == {}
