"""A tiny model and tokenizer made on the spot, and an MLflow store of its own for every test that asks for one."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["TQDM_DISABLE"] = "1"
os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "2"

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CITIES = ("Paris", "Rome", "Oslo", "Cairo", "Lima", "Quito", "Delhi", "Seoul")
LANDS = ("France", "Italy", "Norway", "Egypt", "Peru", "Ecuador", "India", "Korea")


def rows(prefix="", n=8):
    """`n` prompt-completion rows with ids."""
    return [
        {
            "id": f"{prefix}{land}",
            "prompt": f"The capital of {prefix}{land} is",
            "completion": f" {city}",
        }
        for land, city in list(zip(LANDS, CITIES, strict=True))[:n]
    ]


def write_jsonl(path, records):
    """Write records as JSON Lines and return the path."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def pytest_collection_modifyitems(items):
    """Slow tests first: at the end, no process waits for the last of them."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Folder of a tiny random Llama with a byte-level BPE tokenizer and a chat template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([f"{r['prompt']}{r['completion']}" for r in rows()] * 3, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>"
    )
    wrapped.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(wrapped),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=96,
        eos_token_id=wrapped.eos_token_id,
        bos_token_id=None,
        pad_token_id=wrapped.pad_token_id,
    )
    folder = tmp_path_factory.mktemp("models") / "tiny"
    LlamaForCausalLM(config).save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """An empty MLflow database, made once: its migrations take seconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(empty_store, tmp_path, monkeypatch):
    """URI of an MLflow store of this test's own, in a fresh current folder."""
    import mlflow

    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(empty_store, home / "mlflow.db")
    monkeypatch.chdir(home)
    uri = f"sqlite:///{home / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
    mlflow.set_tracking_uri(uri)
    monkeypatch.setattr(
        mlflow.tracking.fluent, "_active_experiment_id", None
    )  # one that another test chose is not in this store
    yield uri
    while mlflow.active_run():
        mlflow.end_run()


@pytest.fixture
def served(monkeypatch):
    """Starts a judge that always answers the same; returns what it was asked."""
    servers, asked = [], []

    def serve(answer, status=200):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                message = {"role": "assistant", "content": json.dumps(answer)}
                body = {
                    "id": "1",
                    "object": "chat.completion",
                    "created": 0,
                    "model": "m",
                    "usage": {},
                }
                body["choices"] = [{"index": 0, "message": message, "finish_reason": "stop"}]
                text = json.dumps(
                    body if status == 200 else {"error": {"message": "no such model"}}
                ).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *args):
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("OPENAI_API_BASE", f"http://127.0.0.1:{server.server_port}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        return asked

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def experiment_file(tmp_path, tiny_model):
    """A two-stage experiment on the tiny model, as a file."""
    return write_experiment(tmp_path, tiny_model)


def write_experiment(folder, model):
    """Write a two-stage experiment and its data into a folder; return the experiment's file."""
    import yaml

    training = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.01,
        "bf16": False,
        "gradient_checkpointing": False,
    }
    stages = []
    for name in ("first", "second"):
        write_jsonl(folder / f"{name}.jsonl", rows(prefix=f"{name} "))
        stages.append(
            {
                "name": name,
                "data": f"{name}.jsonl",
                "training": training,
                "peft": {"r": 4, "target_modules": "all-linear"},
            }
        )
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump({"name": "tiny", "model": str(model), "stages": stages}))
    return path


def edit_yaml(path: Path, **changes):
    """Change top-level keys of a YAML file."""
    import yaml

    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))
    return path


@contextlib.contextmanager
def serving(backend: str, folder: Path):
    """Address of a real MLflow server on loopback over the store `backend`; artifacts go through it into the folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {
        "backend-store-uri": backend,
        "artifacts-destination": folder / "served",
        "port": port,
        "workers": 1,
    }
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        *(str(part) for o, value in options.items() for part in (f"--{o}", value)),
    ]
    light = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=light)
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 180
    try:
        while True:
            try:
                urllib.request.urlopen(f"{address}/health", timeout=2)
                break
            except (urllib.error.URLError, OSError):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((folder / "server.log").read_text()) from None
                time.sleep(0.3)
        yield address
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture
def server(store, tmp_path, monkeypatch):
    """Address of a real MLflow server on loopback that serves this test's store and its artifacts."""
    import mlflow

    with serving(store, tmp_path) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        mlflow.set_tracking_uri(address)
        yield address
