"""Tiny models saved to folders, for tests that break them or make them unusual."""

import json
import shutil
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

MODEL = "model.safetensors"
ADAPTER = "adapter_model.safetensors"


def load(folder):
    """The model of a folder, as transformers alone loads it."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()


def copy(base, folder):
    """A copy of a model's folder."""
    return Path(shutil.copytree(base, folder))


def stir(model, seed=1, std=0.05):
    """Change all that can be trained, so that nothing is as it was."""
    generator = torch.Generator().manual_seed(seed)
    for weights in model.parameters():
        if weights.requires_grad:
            weights.data += std * torch.randn(weights.shape, generator=generator)
    return model


def adapter(base, folder, config=None, model=None, **options):
    """Save an adapter with weights of its own on a base; LoRA unless a config is given."""
    lora = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    config = config or LoraConfig(**(lora | options))
    model = get_peft_model(model or load(base), config)
    with warnings.catch_warnings():
        # PEFT says that it saves embeddings, too
        warnings.simplefilter("ignore")
        stir(model, std=0.3).save_pretrained(str(folder))
    return folder


def edit_tensors(folder, change, file=MODEL):
    """Give the tensors of a file, by name, to `change`, which returns others."""
    path = Path(folder) / file
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def edit_json(folder, file="config.json", **changes):
    """Change top-level keys of a JSON file."""
    path = Path(folder) / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def shard(folder, size="20KB"):
    """Save a model again in many files."""
    model = load(folder)
    (Path(folder) / MODEL).unlink()
    model.save_pretrained(folder, max_shard_size=size)
    return sorted(Path(folder).glob("model-*.safetensors"))
