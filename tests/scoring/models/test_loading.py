import contextlib
import re
import shutil
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub.constants
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers.utils import logging

from ilp_mlflow.core.errors import ModelError
from ilp_mlflow.core.terminal import progress
from ilp_mlflow.scoring.models import loading
from ilp_mlflow.scoring.models.tokenization import read_tokenization
from ilp_mlflow.tracking import model_digest
from tests.core.terminal.test_progress import Terminal

IDS = torch.tensor([[5, 6, 7, 8]])
PART = b"x" * 10_485_760  # what the library reads at a time
FILE = 3 * PART


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
    assert again.end_token_ids == loaded.end_token_ids
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


def test_an_adapter_knows_the_base_it_was_trained_on(tiny_model, tmp_path):
    loaded = loading.load_model([str(tiny_model)])
    model = get_peft_model(loaded.model, LoraConfig(r=2, target_modules="all-linear"))
    adapted = replace(loaded, model=model)
    loading.save_model(adapted, tmp_path / "a", "models:/below/1", False, str(tiny_model))
    loading.check_whole([str(tiny_model), str(tmp_path / "a")])
    # the same weights in another type and other files are the same base
    again = loading.load_model([str(tiny_model)])
    again.model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    loading.check_whole([str(tmp_path / "shards"), str(tmp_path / "a")])
    again.model.lm_head.weight.data[0, 0] += 1
    again.model.save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match=r"lm_head\.weight has other values in"):
        loading.check_whole([str(tmp_path / "other"), str(tmp_path / "a")])


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


def test_pickles_and_damaged_or_missing_weights_are_refused(tiny_model, tmp_path):
    pickled = tmp_path / "pickled"
    shutil.copytree(tiny_model, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(ModelError, match="only pickled weights"):
        read_tokenization([str(pickled)])
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_model, damaged)
    (damaged / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(ModelError, match="damaged"):
        read_tokenization([str(damaged)])
    with pytest.raises(ModelError, match=r"no config.json"):
        read_tokenization([str(tmp_path)])
    with pytest.raises(ModelError, match="is the Hub reachable"):
        read_tokenization(["no-such/model"])


def test_a_model_that_is_no_causal_language_model_is_refused(tmp_path, tiny_model):
    shutil.copytree(tiny_model, tmp_path / "t5")
    (tmp_path / "t5" / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(ModelError, match="'t5' is not a causal language model"):
        read_tokenization([str(tmp_path / "t5")])


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
    read_tokenization([str(tmp_path)])
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
    loader = loading.ModelLoader(read_tokenization([base]), "cpu", "float32")
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
    original = loading._load_base
    monkeypatch.setattr(loading, "_load_base", lambda *a: loads.append(a) or original(*a))
    loader = loading.ModelLoader(read_tokenization([base]), "cpu", "float32")
    for parts in ([base], [base, one], [base, two], [base]):
        loader(parts)
    assert len(loads) == 1


class Hub(BaseHTTPRequestHandler):
    """Has one file in one repository."""

    def do_HEAD(self):
        self.send_response(200)
        for name, value in {
            "ETag": '"e"',
            "X-Repo-Commit": "c" * 40,
            "Content-Length": len(FILE),
        }.items():
            self.send_header(name, str(value))
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        for _ in range(3):
            self.wfile.write(PART)
            time.sleep(0.2)  # in which the bar is drawn

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def on_terminal(monkeypatch):
    monkeypatch.setattr("sys.stderr", found := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "SHOW_AFTER", 0)
    return found


def test_a_download_of_the_hub_shows_what_is_left(hub, monkeypatch, tmp_path):
    terminal = on_terminal(monkeypatch)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    path = huggingface_hub.hf_hub_download(
        "a/b", "model.safetensors", endpoint=hub, cache_dir=tmp_path, tqdm_class=loading.Download
    )
    with open(path, "rb") as file:
        assert file.read() == FILE
    assert re.search(
        r"download model.safetensors .*[12]./31 MB  0:00:0\d, 0:00:0\d left", terminal.getvalue()
    )
    assert progress._shown is None


def test_a_total_may_grow_and_files_that_are_counted_are_not_shown(monkeypatch):
    terminal = on_terminal(monkeypatch)
    files, held = (
        loading.Download(total=2, desc="Fetching"),
        loading.Download(total=0, unit="B", desc="weights"),
    )
    held.total = 8_000_000
    held.update(4_000_000)
    files.update(1)
    progress._shown.refresh()
    files.close()
    held.close()
    assert re.search(r"download weights .*4/8 MB ", terminal.getvalue())
    assert "Fetching" not in terminal.getvalue()


def test_weights_that_are_loaded_are_counted(tiny_model, monkeypatch):
    terminal, real = on_terminal(monkeypatch), loading.track

    def slowly(*given):
        for item in real(*given):
            yield item
            progress._shown.refresh()

    monkeypatch.setattr(loading, "track", slowly)
    before = logging._tqdm_hook
    loading.load_model([str(tiny_model)])
    assert re.search(r"load weights .*[1-9]\d*/\d+  0:00:0\d, 0:00:0\d left", terminal.getvalue())
    assert "Loading weights" not in terminal.getvalue()
    assert logging._tqdm_hook is before


def test_what_is_hashed_written_and_stored_is_told_in_megabytes(tiny_model, monkeypatch, tmp_path):
    told = []

    @contextlib.contextmanager
    def task(description, total=None, unit=""):
        told.append((description, unit))
        yield lambda n, total=None: None

    for module in (model_digest, progress):
        monkeypatch.setattr(module, "task", task)
    loaded = loading.load_model([str(tiny_model)])
    loading.save_model(loaded, tmp_path / "copy", "", True)
    assert model_digest.model_digest(str(tmp_path / "copy"))
    assert told[-2:] == [("write copy", "MB"), ("hash model files", "MB")]
