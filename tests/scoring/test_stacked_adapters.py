"""An adapter is put on what its own rows say that it was trained on."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoTokenizer

from ilp_mlflow.core.config import ScoringConfig
from ilp_mlflow.core.values import Checkpoint, Sample
from ilp_mlflow.scoring.stacked_adapters import settle_adapters
from tests.conftest import rows
from tests.scoring import model_folders

LORA = {"r": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
FIRST, SECOND = (
    [Sample(stage=stage, **row) for row in rows(f"{stage} ")] for stage in ("first", "second")
)


def fit(model, base, samples):
    """Train an adapter on samples, in a loop of our own."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    texts = [tokenizer(s.prompt + s.completion + "<|end|>")["input_ids"] for s in samples]
    weights = [w for w in model.parameters() if w.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=0.02)
    for _ in range(20):
        loss = sum(model(input_ids=torch.tensor([t]), labels=torch.tensor([t])).loss for t in texts)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


@pytest.fixture(scope="module")
def adapters(tiny_model, tmp_path_factory):
    """Folders of adapters: one on the base, a second on that one merged, a third on the base."""
    home = tmp_path_factory.mktemp("adapters")
    base = model_folders.copy(tiny_model, home / "base")
    model_folders.stir(model_folders.load(tiny_model), std=0.2).save_pretrained(base)
    torch.manual_seed(0)
    first = fit(get_peft_model(model_folders.load(base), LoraConfig(**LORA)), base, FIRST)
    first.save_pretrained(str(home / "first"))
    below = PeftModel.from_pretrained(model_folders.load(base), str(home / "first"))
    merged = get_peft_model(below.merge_and_unload(), LoraConfig(**LORA))
    fit(merged, base, SECOND).save_pretrained(str(home / "on_first"))
    alone = get_peft_model(model_folders.load(base), LoraConfig(**LORA))
    fit(alone, base, SECOND).save_pretrained(str(home / "alone"))
    return home


@pytest.mark.slow
@pytest.mark.parametrize("trained", ["on_first", "alone"])
def test_rows_say_where_an_adapter_belongs(trained, adapters, store, capsys):
    first, second = str(adapters / "first"), str(adapters / trained)
    places = {"base": str(adapters / "base"), "first": first, "second@3": second, "second": second}
    checkpoints = [Checkpoint(name=name, model_uri=place) for name, place in places.items()]
    samples = {"first": FIRST, "second": SECOND}
    options = ScoringConfig(dtype="float32", device="cpu")
    settled = settle_adapters(checkpoints, samples, options, 0, None)
    uris = {checkpoint.name: checkpoint.model_uri for checkpoint in settled}
    expected = f"{first}+{second}" if trained == "on_first" else second
    assert uris == places | {"second@3": expected, "second": expected}
    assert ("second: its adapter is put on 'first'" in capsys.readouterr().err) == (
        trained == "on_first"
    )


def test_an_adapter_without_rows_stays_where_it_is_and_that_is_told(adapters, store, capsys):
    places = [str(adapters / "base"), str(adapters / "first"), str(adapters / "on_first")]
    checkpoints = [
        Checkpoint(name=name, model_uri=place)
        for name, place in zip(("base", "first", "second"), places, strict=True)
    ]
    settled = settle_adapters(checkpoints, {}, ScoringConfig(), 0, None)
    assert settled == checkpoints
    assert "write --checkpoint second=first+FOLDER" in capsys.readouterr().err
