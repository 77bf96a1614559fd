"""Training with the ledger of samples against TRL's own SFTTrainer: the same data, seed and options."""

import random

import datasets
import pytest
import torch
from peft import LoraConfig
from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from benchmarks.conftest import WORDS
from ilp_mlflow.core.values import Sample, Stage
from ilp_mlflow.scoring.models import loading
from ilp_mlflow.training.trainer import train_stage

pytestmark = pytest.mark.filterwarnings("ignore")
OPTIONS = {
    "num_train_epochs": 1,
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-3,
    "bf16": False,
    "gradient_checkpointing": False,
    "logging_steps": 4,
    "seed": 0,
}
PEFT = {"r": 16, "target_modules": "all-linear"}


def stage(rows=96):
    draw = random.Random(0)

    def text(n):
        return " " + " ".join(draw.choices(WORDS, k=n))

    samples = [
        Sample(id=f"{i}", stage="s", prompt=text(30), completion=text(12)) for i in range(rows)
    ]
    return Stage(name="s", samples=samples, training=OPTIONS, peft=PEFT, schedule="sequential")


def ours(folder, scratch):
    """Trainable weights after our training."""
    done = train_stage(stage(), loading.load_model([folder]), scratch, lambda metrics, step: None)
    assert done.signals.num_rows == len(stage().samples)
    return weights(done.loaded.model)


def bare(folder, scratch):
    """Trainable weights after TRL's own training."""
    loaded = loading.load_model([folder])
    rows = [{"prompt": s.prompt, "completion": s.completion} for s in stage().samples]
    args = SFTConfig(
        **OPTIONS,
        output_dir=str(scratch),
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        train_sampling_strategy="sequential",
    )
    trainer = SFTTrainer(
        loaded.model,
        args,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=loaded.tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", **PEFT),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return weights(trainer.model)


def weights(model):
    return {name: w.detach().clone() for name, w in model.named_parameters() if w.requires_grad}


def test_overhead_of_the_ledger(smollm2, paired, tmp_path):
    one, other = ours(smollm2, tmp_path), bare(smollm2, tmp_path)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    ratio = paired(
        lambda: ours(smollm2, tmp_path),
        lambda: bare(smollm2, tmp_path),
        len(stage().samples),
        rounds=5,
    )
    print(f"  overhead {1 / ratio - 1:+.1%}, trained weights equal to the bit")
    assert 1 / ratio <= 1.03
