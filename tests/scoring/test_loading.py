import shutil
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from ilp_mlflow.core.config import TokenizerConfig
from ilp_mlflow.core.errors import ModelError
from ilp_mlflow.scoring import loading

IDS = torch.tensor([[5, 6, 7, 8]])


def logits(loaded):
    with torch.inference_mode():
        return loaded.model.eval()(IDS).logits


def adapter(parts, folder, seed):
    """Save an adapter with random weights on top of `parts`."""
    loaded = loading.load_model(parts, merge=True)
    torch.manual_seed(seed)
    model = get_peft_model(
        loaded.model, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    )
    loading.save_model(replace(loaded, model=model), folder, "models:/below/1", False)
    return str(folder)


def test_a_full_model_saves_and_loads_back_the_same(tiny_model, tmp_path):
    loaded = loading.load_model([str(tiny_model)])
    loading.save_model(loaded, tmp_path / "copy", "unused", False)
    again = loading.load_model([str(tmp_path / "copy")])
    assert torch.equal(logits(loaded), logits(again))
    assert again.ends == loaded.ends
    assert again.tokenizer.chat_template == loaded.tokenizer.chat_template


def test_an_adapter_holds_nothing_of_its_base(tiny_model, tmp_path):
    folder = adapter([str(tiny_model)], tmp_path / "a", 1)
    assert {p.name for p in (tmp_path / "a").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert (
        '"base_model_name_or_path": "models:/below/1"'
        in (tmp_path / "a" / "adapter_config.json").read_text()
    )
    assert not torch.allclose(
        logits(loading.load_model([str(tiny_model), folder])),
        logits(loading.load_model([str(tiny_model)])),
    )


def test_adapters_stack_in_order_merged_or_not(tiny_model, tmp_path):
    base = str(tiny_model)
    one = adapter([base], tmp_path / "1", 1)
    two = adapter([base, one], tmp_path / "2", 2)
    kept, merged = (
        loading.load_model([base, one, two]),
        loading.load_model([base, one, two], merge=True),
    )
    assert torch.allclose(logits(kept), logits(merged), atol=1e-5)
    assert not torch.allclose(logits(kept), logits(loading.load_model([base, two])), atol=1e-3)


def test_tokenizer_options_are_applied_and_checked(tiny_model, tmp_path):
    template = tmp_path / "t.jinja"
    template.write_text("{{ messages }}")
    found = loading.load_tokenizer(
        [str(tiny_model)], TokenizerConfig(chat_template=str(template), eos_token="<|user|>")
    )
    assert (found.chat_template, found.eos_token) == ("{{ messages }}", "<|user|>")
    template.write_text("{% if think %}think{% endif %}{{ note }}{{ nothing is none }}")
    options = {"think": False, "note": "it's {{ 'quoted' }}", "nothing": None}
    found = loading.load_tokenizer(
        [str(tiny_model)],
        TokenizerConfig(chat_template=str(template), chat_template_kwargs=options),
    )
    assert (
        found.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
        == "it's {{ 'quoted' }}True"
    )
    found.save_pretrained(tmp_path / "saved")  # variables set later replace those that were saved
    again = loading.load_tokenizer(
        [str(tmp_path / "saved")], TokenizerConfig(chat_template_kwargs={**options, "think": True})
    )
    assert (
        again.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
        == "thinkit's {{ 'quoted' }}True"
    )
    with pytest.raises(ModelError, match="not in the vocabulary"):
        loading.load_tokenizer([str(tiny_model)], TokenizerConfig(eos_token="<nope>"))
    with pytest.raises(ModelError, match="not a readable text file"):
        loading.load_tokenizer(
            [str(tiny_model)], TokenizerConfig(chat_template=str(tmp_path / "none"))
        )


def test_pickles_and_damaged_or_missing_weights_are_refused(tiny_model, tmp_path):
    pickled = tmp_path / "pickled"
    shutil.copytree(tiny_model, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(ModelError, match="only pickled weights"):
        loading.read_tokenization([str(pickled)])
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_model, damaged)
    (damaged / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(ModelError, match="damaged"):
        loading.read_tokenization([str(damaged)])
    with pytest.raises(ModelError, match=r"no config.json"):
        loading.read_tokenization([str(tmp_path)])
    with pytest.raises(ModelError, match="is the Hub reachable"):
        loading.read_tokenization(["no-such/model"])


def test_a_model_that_is_no_causal_language_model_is_refused(tmp_path, tiny_model):
    shutil.copytree(tiny_model, tmp_path / "t5")
    (tmp_path / "t5" / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(ModelError, match="'t5' is not a causal language model"):
        loading.read_tokenization([str(tmp_path / "t5")])


def test_a_gguf_folder_loads_trains_and_saves(tmp_path):
    """A de-quantised GGUF model is an ordinary one: it saves as safetensors and loads back the same."""
    import gguf

    writer = gguf.GGUFWriter(str(tmp_path / "m.gguf"), "llama")
    width, vocabulary = 32, 260
    for name, value in (
        ("block_count", 1),
        ("context_length", 64),
        ("embedding_length", width),
        ("feed_forward_length", 64),
        ("head_count", 4),
        ("head_count_kv", 2),
    ):
        getattr(writer, f"add_{name}")(value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    tokens = ["<|a|>", "<|b|>", "<|end|>", *letters, letters[0] + letters[1]]
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3, *[1] * 257])
    writer.add_token_merges([f"{letters[0]} {letters[1]}"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    generator = torch.Generator().manual_seed(0)

    def tensor(*shape):
        return (torch.randn(*shape, generator=generator) * 0.1).numpy()

    writer.add_tensor("token_embd.weight", tensor(vocabulary, width))
    writer.add_tensor("output_norm.weight", 1 + tensor(width))
    for part, shape in (
        ("attn_q", (32, 32)),
        ("attn_k", (16, 32)),
        ("attn_v", (16, 32)),
        ("attn_output", (32, 32)),
    ):
        writer.add_tensor(f"blk.0.{part}.weight", tensor(*shape))
    for part, shape in (("ffn_gate", (64, 32)), ("ffn_up", (64, 32)), ("ffn_down", (32, 64))):
        writer.add_tensor(f"blk.0.{part}.weight", tensor(*shape))
    writer.add_tensor("blk.0.attn_norm.weight", 1 + tensor(width))
    writer.add_tensor("blk.0.ffn_norm.weight", 1 + tensor(width))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    loading.read_tokenization([str(tmp_path)])
    loaded = loading.load_model([str(tmp_path)])
    assert all(p.requires_grad for p in loaded.model.parameters())
    loading.save_model(loaded, tmp_path / "saved", "unused", True)
    assert "quantization_config" not in (tmp_path / "saved" / "config.json").read_text()
    assert torch.equal(logits(loaded), logits(loading.load_model([str(tmp_path / "saved")])))
    shutil.copy(tmp_path / "m.gguf", tmp_path / "n.gguf")
    with pytest.raises(ModelError, match="2 GGUF files"):
        loading.load_model([str(tmp_path)])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"modules_to_save": ["lm_head"]},
        {"bias": "all"},
        {"use_dora": True},
        {"init_lora_weights": "pissa"},
    ],
    ids=["plain", "modules_to_save", "bias", "dora", "pissa"],
)
def test_adapters_come_and_go_on_one_base_as_if_loaded_alone(tiny_model, tmp_path, options):
    base = str(tiny_model)
    loaded = loading.load_model([base])
    torch.manual_seed(0)
    config = LoraConfig(
        **{"r": 2, "target_modules": "all-linear", "init_lora_weights": False} | options
    )
    model = get_peft_model(loaded.model, config)
    for weights in model.parameters():
        if weights.requires_grad:
            torch.nn.init.normal_(weights, std=0.1)
    model.save_pretrained(str(tmp_path / "odd"), save_embedding_layers=False)
    odd = str(tmp_path / "odd")
    one = adapter([base], tmp_path / "1", 1)
    two = adapter([base, one], tmp_path / "2", 2)
    loader = loading.ModelLoader(None, "cpu", "float32")
    for parts in (
        [base],
        [base, one],
        [base, odd],
        [base],
        [base, two],
        [base, one, two],
        [base, one],
    ):
        assert torch.equal(logits(loader(parts)), logits(loading.load_model(parts))), parts


def test_a_base_is_loaded_once_for_its_adapters(tiny_model, tmp_path, monkeypatch):
    base, loads = str(tiny_model), []
    one, two = (adapter([base], tmp_path / str(seed), seed) for seed in (1, 2))
    original = loading._base
    monkeypatch.setattr(loading, "_base", lambda *a: loads.append(a) or original(*a))
    loader = loading.ModelLoader(None, "cpu", "float32")
    for parts in ([base], [base, one], [base, two], [base]):
        loader(parts)
    assert len(loads) == 1
