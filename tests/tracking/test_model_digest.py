import hashlib
import shutil

import huggingface_hub
import pytest

from ilp_mlflow.core.errors import ModelError
from ilp_mlflow.tracking.model_digest import model_digest


def test_a_digest_is_of_what_is_read(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    assert model_digest(str(folder)) == model_digest(str(tiny_model))
    (folder / "optimizer.pt").write_bytes(b"momenta")
    assert model_digest(str(folder)) == model_digest(str(tiny_model))
    (folder / "config.json").write_text("{}")
    assert model_digest(str(folder)) != model_digest(str(tiny_model))


def test_a_digest_is_of_names_and_contents_in_order_of_the_names(tmp_path):
    contents = {"b.safetensors": b"2", "a.json": b"1"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "checkpoint-1").mkdir()
    parts = [
        name.encode() + hashlib.sha256(content).digest()
        for name, content in sorted(contents.items())
    ]
    assert model_digest(str(tmp_path)) == hashlib.sha256(b"".join(parts)).hexdigest()
    (tmp_path / "a.json").rename(tmp_path / "c.json")
    assert model_digest(str(tmp_path)) != hashlib.sha256(b"".join(parts)).hexdigest()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The cache of the Hub with a model `owner/name` in it."""
    commit = "0123456789" * 4
    model = tmp_path / "models--owner--name"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(commit)
    (model / "snapshots" / commit).mkdir(parents=True)
    (model / "snapshots" / commit / "config.json").write_text("{}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return commit


def test_a_digest_of_a_hub_model_is_of_its_id_and_commit_and_needs_no_network(hub):
    expected = hashlib.sha256(f"owner/name@{hub}".encode()).hexdigest()
    assert model_digest("owner/name") == expected


def test_a_hub_model_that_is_not_here_is_named(hub):
    with pytest.raises(ModelError, match=r"^owner/other: cannot be read .* is the Hub reachable"):
        model_digest("owner/other")
    with pytest.raises(ModelError, match="cannot be read"):
        model_digest("/no/such/folder")
