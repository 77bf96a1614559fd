"""Every message that docs/troubleshooting.md quotes is provoked, and is what is printed."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from ilp_mlflow import ConfigError, IlpCallback, pipeline
from ilp_mlflow.cli import main
from ilp_mlflow.scoring import scorer
from ilp_mlflow.training import scheduled_trainer
from tests.conftest import edit_yaml, rows, write_jsonl

ROOT = Path(__file__).parents[2]
SECTIONS = re.findall(
    r"^### (.+?)\n(.*?)(?=^##|\Z)",
    (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"),
    re.M | re.S,
)
CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
QUOTED = {
    heading: re.findall(r"^```text\n(.+?)\n```$", text, re.M | re.S) for heading, text in SECTIONS
}


@pytest.fixture
def you(store, tiny_model, monkeypatch):
    """The folder of the page's user, with an experiment on the tiny model."""
    home = Path.cwd()
    write_jsonl(home / "facts.jsonl", rows())
    training = {"num_train_epochs": 1, "bf16": False, "gradient_checkpointing": False}
    stages = [
        {
            "name": "facts",
            "data": "facts.jsonl",
            "training": training,
            "peft": {"r": 4, "target_modules": "all-linear"},
        }
    ]
    (home / "my.yaml").write_text(
        yaml.safe_dump({"name": "my-model", "model": str(tiny_model), "stages": stages})
    )
    shutil.copytree(tiny_model, home / "whole")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    return home


def ilp(*words):
    """What a command prints on stderr, and that it is told as something to repair."""
    result = CliRunner().invoke(main, words or ("run", "my.yaml"))
    assert result.exit_code == 2, result.stderr
    return result.stderr.splitlines()[-1]


def with_training(**options):
    """What is said of the experiment with other training options."""
    stages = yaml.safe_load(Path("my.yaml").read_text())["stages"]
    stages[0]["training"] |= options
    return with_(stages=stages)


def with_(**keys):
    edit_yaml(Path("my.yaml"), **keys)
    return ilp()


def with_rows(*records):
    write_jsonl(Path("facts.jsonl"), records)
    return ilp()


def raising(monkeypatch, place, name, error):
    """What is said when a step ends with `error`."""

    def fail(*args, **options):
        raise error

    monkeypatch.setattr(place, name, fail)
    return ilp()


def no_conda(you, monkeypatch):
    for name in ("MLproject", "conda.yaml"):
        shutil.copy(ROOT / name, you)
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    done = subprocess.run(
        [sys.executable, "-m", "mlflow", "run", "."], capture_output=True, text=True, check=False
    )
    return [done.stderr.partition("mlflow.cli: ")[2]]


def unknown_keys(you, monkeypatch):
    first = with_(stagse=[])
    text = yaml.safe_load(Path("my.yaml").read_text())
    Path("my.yaml").write_text(yaml.safe_dump({k: v for k, v in text.items() if k != "stagse"}))
    return [first, with_training(lerning_rate=1)]


def no_models(you, monkeypatch):
    model = Path(yaml.safe_load(Path("my.yaml").read_text())["model"])
    shutil.copytree(model, "pickled")
    Path("pickled/model.safetensors").rename("pickled/pytorch_model.bin")
    shutil.copytree(model, "adapter")
    Path("adapter/adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(model)})
    )
    return [with_(model=str(you / "pickled")), with_(model=str(you / "adapter"))]


def unwanted_answers(you, monkeypatch):
    pair = {"prompt": "p", "completion": "c"}
    ranked = with_rows({"prompt": "p", "chosen": "c", "rejected": "d"})
    return [ranked, with_rows(pair | {"label": True}, pair | {"label": False})]


def no_whole_model(you, monkeypatch):
    first = with_(model="HuggingFaceTB/no-such-model")
    return [first, with_(model=str(changed(you / "headless", lambda ts: ts.pop("lm_head.weight"))))]


def changed(folder, change):
    """A copy of the tiny model whose tensors are changed in place."""
    shutil.copytree("whole", folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def no_markers(you, monkeypatch):
    write_jsonl(
        Path("facts.jsonl"),
        [
            {
                "messages": [
                    {"role": "user", "content": r["prompt"]},
                    {"role": "assistant", "content": r["completion"]},
                ]
            }
            for r in rows()
        ],
    )
    return [with_training(assistant_only_loss=True)]


def not_finite(you, monkeypatch):
    train = scheduled_trainer.ScheduledTrainer.train

    def diverge(self, **options):
        done = train(self, **options)
        next(p for p in self.model.parameters() if p.requires_grad).data.fill_(float("nan"))
        return done

    broken = changed(you / "diverged", lambda ts: ts["model.norm.weight"].fill_(float("nan")))
    with monkeypatch.context() as patch:
        patch.setattr(scheduled_trainer.ScheduledTrainer, "train", diverge)
        weights = ilp()

    score = scorer._sample_score

    def overflow(sample, result, *more):
        return score(sample, result._replace(gaps=result.gaps * float("nan")), *more)

    monkeypatch.setattr(scorer, "_sample_score", overflow)
    outputs = ilp()
    # last, since it stays the model of the experiment
    return [weights, with_(model=str(broken)), outputs]


def other_rows(you, monkeypatch):
    from trl import SFTConfig, SFTTrainer

    model = yaml.safe_load(Path("my.yaml").read_text())["model"]
    whole = datasets.Dataset.from_list(rows())
    args = SFTConfig("outputs", bf16=False, report_to="none")
    trainer = SFTTrainer(
        model, args, train_dataset=whole, callbacks=[IlpCallback(whole.select(range(7)))]
    )
    with pytest.raises(ConfigError) as found:
        trainer.train()
    return [f"ilp: {found.value}"]


PROVOKED = {
    "The installation downloads gigabytes of CUDA": lambda you, patch: [],
    "No conda with mlflow run": no_conda,
    "The disk is full": lambda you, patch: [
        raising(patch, pipeline, "run", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    ],
    "Out of memory": lambda you, patch: [
        raising(
            patch,
            scheduled_trainer.ScheduledTrainer,
            "train",
            torch.OutOfMemoryError("CUDA out of memory"),
        )
    ],
    "An unknown key": unknown_keys,
    "A plugin that is not installed": lambda you, patch: [with_(mitigations=["repare"])],
    "bf16 on a CPU": lambda you, patch: [with_training(bf16=True)],
    "Packing": lambda you, patch: [with_training(packing=True)],
    "A field is missing": lambda you, patch: [
        with_rows(*rows(n=2), {"prompt": "p", "response": "c"})
    ],
    "No format fits": lambda you, patch: [with_rows({"question": "q", "answer": "a"})],
    "Rows that say which answers are wanted": unwanted_answers,
    "Messages and a prompt disagree": lambda you, patch: [
        with_rows({"messages": CHAT, "prompt": "another"})
    ],
    "An id is given twice": lambda you, patch: [
        with_rows(*[{"id": "a", "prompt": "p", "completion": "c"}] * 2)
    ],
    "No token to learn from": lambda you, patch: [with_training(max_length=3)],
    "The chat template has no generation markers": no_markers,
    "The model cannot be read": no_whole_model,
    "The folder is no model of its own": no_models,
    "The weights are not finite": not_finite,
    "MLflow refuses a folder as its store": lambda you, patch: [
        with_(tracking={"uri": f"file://{you}/mlruns"})
    ],
    "MLflow does not answer": lambda you, patch: [with_(tracking={"uri": "http://127.0.0.1:9"})],
    "No trained run": lambda you, patch: [ilp("diagnose", "my.yaml")],
    "Other rows than the trainer's": other_rows,
    "The UI shows no runs, or no charts": lambda you, patch: [],
}


def test_each_is_provoked():
    assert list(QUOTED) == list(PROVOKED)


@pytest.mark.slow
@pytest.mark.parametrize("heading", QUOTED)
def test_what_is_quoted_is_printed(heading, you, monkeypatch):
    printed = PROVOKED[heading](you, monkeypatch)
    assert len(printed) == len(QUOTED[heading])
    for said, quoted in zip(printed, QUOTED[heading], strict=True):
        assert said.replace(str(you), "/home/you").startswith(quoted)
