"""What the files say of the embedding."""

import torch
from safetensors.torch import save_file
from transformers import AutoConfig

from ilp_mlflow.training.checks.embeddings import Embedding, find_embedding


def write(folder, rows, name="model.embed_tokens.weight", file="model.safetensors"):
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    table = 0.5 + torch.randn(rows, 16, generator=generator)
    save_file({name: table, "other.weight": torch.zeros(3)}, folder / file)
    return table


def test_it_is_found_in_the_file_of_the_weights(tiny_model):
    found = find_embedding([str(tiny_model)])
    assert found.rows == AutoConfig.from_pretrained(tiny_model).vocab_size
    assert found.file.name == "model.safetensors"


def test_an_adapter_may_bring_a_larger_one(tmp_path):
    write(tmp_path / "base", 10)
    name = "base_model.model.model.embed_tokens.weight"
    write(tmp_path / "adapter", 12, name, "adapter_model.safetensors")
    parts = [str(tmp_path / "base"), str(tmp_path / "adapter")]
    assert find_embedding(parts).rows == 12
    assert find_embedding(parts[:1]).rows == 10


def test_the_head_goes_before_the_embedding(tmp_path):
    # in a shard of its own
    write(tmp_path, 10)
    write(tmp_path, 12, "lm_head.weight", "model-00002.safetensors")
    assert find_embedding([str(tmp_path)]).tensor == "lm_head.weight"


def test_rows_as_they_were_made_are_near_zero_or_near_the_mean(tmp_path):
    table = write(tmp_path, 200)
    table[7] = 1e-3
    table[150] = table.mean(dim=0) + 1e-2
    save_file({"model.embed_tokens.weight": table}, tmp_path / "model.safetensors")
    found = find_embedding([str(tmp_path)])
    assert found.untrained(range(200)) == {7, 150}
    # an id beyond the embedding is another fault
    assert found.untrained([999]) == set()
    assert Embedding(10, None, "").untrained([1]) == set()
