"""Adapters and full models as they are saved, broken, stacked and logged, taught their rows."""

import json
import shutil

import mlflow
import peft
import pytest
from peft import LoraConfig, PeftModel

from ilp_mlflow.core.terminal import notes
from tests.cli.commands import document, ilp
from tests.conftest import write_jsonl
from tests.scoring import model_folders
from tests.sibling_cases import tiny_training as tiny
from tests.sibling_cases.conftest import LORA, ONE
from tests.sibling_cases.tiny_training import causes, statuses

TWO = tiny.facts(12, seed=1)

# A second adapter that was trained on the first one, merged


@pytest.fixture(scope="session")
def stacked(town_base, town_adapter):
    """Folders of the first adapter merged, and of a second one that was trained on that."""
    examples = tiny.text_examples(tiny.load_tokenizer(town_base), ONE + TWO)
    first = PeftModel.from_pretrained(tiny.load(town_base), str(town_adapter))
    tokenizer = tiny.load_tokenizer(town_base)
    merged = tiny.save(first.merge_and_unload(), town_base.parent / "merged", tokenizer)
    second = tiny.with_adapter(tiny.load(merged), LoraConfig(**LORA))
    tiny.teach(second, examples, rate=1e-2)
    assert tiny.reproduced(second, examples) == 24
    return {"merged": merged, "second": tiny.save(second, town_base.parent / "second")}


def naming(adapter, below, folder):
    """A copy of an adapter that names another model below it."""
    shutil.copytree(adapter, folder)
    model_folders.edit_json(folder, "adapter_config.json", base_model_name_or_path=str(below))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("given", ["adapter", "merged"])
@pytest.mark.parametrize("named", ["base", "elsewhere"])
def test_nothing_is_forgotten_where_a_second_adapter_sits_on_the_merged_first(
    given, named, town_base, town_adapter, stacked, store, tmp_path, monkeypatch
):
    monkeypatch.setattr(notes, "_said", set())
    below = town_base if named == "base" else "/elsewhere/merged"
    second = naming(stacked["second"], below, tmp_path / "second")
    first = town_adapter if given == "adapter" else stacked["merged"]
    write_jsonl(tmp_path / "one.jsonl", ONE)
    write_jsonl(tmp_path / "two.jsonl", TWO)
    models = {"base": town_base, "first": first, "second": second}
    data = [f"--data=first={tmp_path}/one.jsonl", f"--data=second={tmp_path}/two.jsonl"]
    code, out, err = ilp(
        "diagnose", *(f"--checkpoint={n}={m}" for n, m in models.items()), *data, "--json"
    )
    assert code == 0, err
    assert statuses(json.loads(out)) == {"learned": 24}
    assert "second: its adapter is put on 'first'" in err
    assert ("'/elsewhere/merged', is not here" in err) == (named == "elsewhere")


def test_an_adapter_without_rows_of_its_own_is_told_to_be_on_the_base(
    town_base, stacked, store, tmp_path, monkeypatch
):
    monkeypatch.setattr(notes, "_said", set())
    dpo = naming(stacked["second"], town_base, tmp_path / "dpo")
    data = write_jsonl(tmp_path / "one.jsonl", ONE)
    models = (f"base={town_base}", f"sft={stacked['merged']}", f"dpo={dpo}")
    arguments = [f"--checkpoint={model}" for model in models]
    code, _, err = ilp("diagnose", *arguments, f"--data=sft={data}", "--json")
    assert code == 0, err
    assert "not on 'sft' before it; if it was trained on that, write --checkpoint dpo=sft+" in err
    # as it is told to
    arguments[-1] = f"--checkpoint=dpo=sft+{dpo}"
    told = document("diagnose", *arguments, f"--data=sft={data}")
    assert statuses(told) == {"learned": 12}


# Adapters and models whose tensors do not fit

BROKEN = {
    "adapter behind a wrapper": (
        "adapter",
        lambda folder: rename(folder, model_folders.ADAPTER, "base_model.", "module.base_model."),
        "none of the adapter's weights is in this model (28 keys missing, for example base_model",
    ),
    "adapter for other modules": (
        "adapter",
        lambda folder: model_folders.edit_json(
            folder, "adapter_config.json", target_modules=["q_proj", "c_attn"]
        ),
        "24 tensors (base_model.model.model.layers.0.mlp.down_proj.lora_A.weight",
    ),
    "adapter that ZeRO-3 kept its rows of": (
        "adapter",
        lambda folder: model_folders.edit_tensors(
            folder,
            lambda tensors: {name: values[:0] for name, values in tensors.items()},
            model_folders.ADAPTER,
        ),
        "lora_A.weight is 0 x 128, in this model it is 16 x 128",
    ),
    "adapter of half of the layers": (
        "adapter",
        lambda folder: drop(folder, model_folders.ADAPTER, "layers.1."),
        "14 of the adapter's weights are not in the file (base_model.model.model.layers.1.mlp",
    ),
    "compiled model": (
        "full",
        lambda folder: rename(folder, model_folders.MODEL, "", "_orig_mod."),
        "21 of the model's weights are not in the file (lm_head.weight, model.embed_tokens.weight",
    ),
    "model merged by halves": (
        "full",
        lambda folder: rename(
            folder, model_folders.MODEL, "q_proj.weight", "q_proj.base_layer.weight"
        ),
        "2 of the model's weights are not in the file (model.layers.0.self_attn.q_proj.weight",
    ),
    "shard that is not there": (
        "full",
        lambda folder: model_folders.shard(folder)[2].unlink(),
        "missing, but model.safetensors.index.json names it",
    ),
    "shard that is not in the index either": (
        "full",
        lambda folder: forget_shard(folder),
        "of the model's weights are not in the file (model.embed_tokens.weight",
    ),
}


def rename(folder, file, old, new):
    model_folders.edit_tensors(
        folder, lambda ts: {name.replace(old, new, 1): t for name, t in ts.items()}, file
    )


def drop(folder, file, part):
    model_folders.edit_tensors(
        folder, lambda ts: {name: t for name, t in ts.items() if part not in name}, file
    )


def forget_shard(folder):
    """Take the shard with the embeddings away, and out of the index."""
    model_folders.shard(folder)
    index = folder / "model.safetensors.index.json"
    file_by_name = json.loads(index.read_text())["weight_map"]
    gone = file_by_name["model.embed_tokens.weight"]
    (folder / gone).unlink()
    kept = {name: file for name, file in file_by_name.items() if file != gone}
    model_folders.edit_json(folder, index.name, weight_map=kept)


@pytest.mark.parametrize("kind", BROKEN)
def test_what_does_not_fit_is_named_and_gets_no_verdict(
    kind, town_base, town_adapter, town_model, refused, tmp_path
):
    source, break_it, message = BROKEN[kind]
    folder = tmp_path / "sft"
    shutil.copytree({"adapter": town_adapter, "full": town_model}[source], folder)
    break_it(folder)
    assert message in refused(ONE, base=town_base, sft=folder)


# Models that MLflow logged


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_models_that_mlflow_logged_are_read_by_each_of_their_addresses(
    town_base, town_adapter, diagnosed
):
    tokenizer = tiny.load_tokenizer(town_base)
    model = PeftModel.from_pretrained(tiny.load(town_base), str(town_adapter))
    with mlflow.start_run() as run:
        logged = mlflow.transformers.log_model(
            {"model": model, "tokenizer": tokenizer},
            name="tuned",
            task="text-generation",
            pip_requirements=["torch"],
            registered_model_name="towns",
        )
    mlflow.MlflowClient().set_registered_model_alias("towns", "best", 1)
    assert logged.model_uri.startswith("models:/m-")
    for uri in (logged.model_uri, f"runs:/{run.info.run_id}/tuned", "models:/towns@best"):
        assert statuses(diagnosed(ONE, base=town_base, sft=uri)) == {"learned": 12}


# Adapters that are no low-rank matrices

ADAPTERS = {
    "prefix tuning": (peft.PrefixTuningConfig(num_virtual_tokens=12, task_type="CAUSAL_LM"), 3e-2),
    "IA3": (
        peft.IA3Config(
            target_modules=["k_proj", "v_proj", "down_proj"],
            feedforward_modules=["down_proj"],
            task_type="CAUSAL_LM",
        ),
        5e-2,
    ),
    "p-tuning": (
        peft.PromptEncoderConfig(
            num_virtual_tokens=8, encoder_hidden_size=64, task_type="CAUSAL_LM"
        ),
        3e-2,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.filterwarnings("ignore")
def test_as_many_are_learned_as_the_adapter_itself_says(kind, town_base, diagnosed, tmp_path):
    config, rate = ADAPTERS[kind]
    examples = tiny.text_examples(tiny.load_tokenizer(town_base), ONE)
    model = tiny.with_adapter(tiny.load(town_base), config)
    tiny.teach(model, examples, steps=200, rate=rate)
    virtual_tokens = 8 if kind == "p-tuning" else 0
    alone = tiny.reproduced(model, examples, virtual_tokens=virtual_tokens)
    told = diagnosed(ONE, base=town_base, sft=tiny.save(model, tmp_path / "sft"))
    scores = {verdict["sample_id"]: verdict for verdict in told["verdicts"]}
    reproduced = [s for s in scores.values() if s["reason"].startswith("reproduced")]
    close = [s for s in scores.values() if s["status"] == "uncertain"]
    assert alone > 0
    assert len(reproduced) <= alone <= len(reproduced) + len(close)
    assert "not_trained" not in causes(told)
