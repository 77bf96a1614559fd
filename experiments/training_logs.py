"""Trainings with unusual but right settings, and with planted faults: what their logs come to.

Each is a real run of TRL's SFTTrainer on a tiny model that knows facts of the same form, saved as
a trainer leaves it and read again as a model trained elsewhere. Printed are, for each run, the
share of its rows that it taught, the loss of the rows before and after it and the last logged loss
(nats per token), and what is found; then the band of the healthy runs' gaps. A minute per seed.

    python experiments/training_logs.py --seeds 0 1 2
    python experiments/training_logs.py --seeds 100 101 --only rate_1000_times plain
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import datasets
import torch
from peft import LoraConfig
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    PrinterCallback,
)
from trl import SFTConfig, SFTTrainer

from ilp_mlflow.core.config import ScoringConfig
from ilp_mlflow.core.values import Checkpoint, Sample, Stage
from ilp_mlflow.data.samples import sample_from_record
from ilp_mlflow.data.trainer_logs import choose_settings, read_folder_log
from ilp_mlflow.diagnosis.context import ScoredSamples
from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.diagnosis.faults.optimization.got_nowhere import find_optimization_faults
from ilp_mlflow.diagnosis.faults.optimization.logged_loss import (
    LossGap,
    find_loss_gaps,
    measure_gap,
)
from ilp_mlflow.diagnosis.faults.stage_scores import stage_movement
from ilp_mlflow.diagnosis.loss_course import course_from_log
from ilp_mlflow.scoring.checkpoints import choose_wrong_options
from ilp_mlflow.scoring.judged import score_and_judge
from ilp_mlflow.scoring.models.tokenization import read_tokenization
from ilp_mlflow.training.accounts.row_account import account_rows

SYLLABLES = "ba be bi bo da de di do fa fe fi fo ga ge gi go ka ke ki ko la le li lo ma me mi mo"
ROWS = 48
"""Rows that are trained."""
KNOWN_ROWS = 200
"""Rows of the same form that the base is made of."""
LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
FALLS = {True: "falling", False: "settled", None: "unclear"}
LONG = {"num_train_epochs": 60}
USUAL = {
    "num_train_epochs": 24,
    "per_device_train_batch_size": 8,
    "learning_rate": 5e-3,
    "max_length": 64,
    "logging_steps": 2,
}


@dataclass(frozen=True)
class Variant:
    """One way to train."""

    training: Mapping[str, Any] = field(default_factory=dict)
    """Options of SFTConfig beside USUAL."""
    peft: Mapping[str, Any] | None = None
    """Options of LoraConfig; None: all weights."""
    fault: str = ""
    """Kind of the fault that is planted; "" in a healthy run."""
    dtype: str = "float32"
    """Of the weights."""
    sort: bool = False
    """Trained in the order of the file."""
    frozen: bool = False
    """All weights that take part in the loss are frozen."""
    overflow: bool = False
    """Gradients of most steps are made infinite in the log."""


HEALTHY = {
    "plain": Variant(),
    "lora": Variant({"learning_rate": 1e-2, **LONG}, LORA),
    "lora_r2": Variant({"learning_rate": 2e-2, **LONG}, {**LORA, "r": 2, "lora_alpha": 4}),
    "dora": Variant({"learning_rate": 1e-2, **LONG}, {**LORA, "use_dora": True}),
    "lora_dropout": Variant({"learning_rate": 1e-2, **LONG}, {**LORA, "lora_dropout": 0.3}),
    "bf16": Variant({"bf16": True}),
    "bf16_weights": Variant({}, dtype="bfloat16"),
    "one_epoch": Variant({"num_train_epochs": 1, "per_device_train_batch_size": 1}),
    "two_epochs": Variant({"num_train_epochs": 2, "per_device_train_batch_size": 2}),
    "constant_rate": Variant({"lr_scheduler_type": "constant"}),
    "cosine": Variant({"lr_scheduler_type": "cosine", "warmup_steps": 0.1}),
    "keep_end": Variant({"truncation_mode": "keep_end", "max_length": 24}),
    "weight_decay": Variant({"weight_decay": 0.1}),
    "batch_1": Variant({"per_device_train_batch_size": 1, "learning_rate": 1e-3}),
    "accumulation_8": Variant(
        {
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 8,
            "max_grad_norm": 0.1,
        }
    ),
    "label_smoothing": Variant({"label_smoothing_factor": 0.1}),
    "packing": Variant({"packing": True, "num_train_epochs": 30, "max_length": 128}),
    "prompt_in_the_loss": Variant({"completion_only_loss": False}),
    "overfitted": Variant({"num_train_epochs": 60}),
    "file_order": Variant({"train_sampling_strategy": "sequential"}, sort=True),
    "neftune": Variant({"neftune_noise_alpha": 5}),
    "sgd": Variant({"optim": "sgd", "learning_rate": 0.5, "num_train_epochs": 40}),
    "too_short": Variant({"num_train_epochs": 2}),
    "default_logging": Variant({"logging_steps": 10}),
    "file_order_once": Variant(
        {
            "train_sampling_strategy": "sequential",
            "num_train_epochs": 1,
            "per_device_train_batch_size": 1,
            "lr_scheduler_type": "constant",
        },
        sort=True,
    ),
    "shipped_defaults": Variant(
        {"learning_rate": 2e-5, "num_train_epochs": 3}, fault="stood_still"
    ),
}
"""Right settings, some of them unusual; `too_short` is one that only has to go on, and TRL's own rate
is so small for a tiny model that it stands still indeed."""
FAULTY = {
    "rate_1000_times": Variant({"learning_rate": 3.0}, fault="rate_too_high"),
    "adapter_rate_1000_times": Variant({"learning_rate": 10.0}, LORA, fault="rate_too_high"),
    "rate_by_100000": Variant({"learning_rate": 3e-8}, fault="rate_too_low"),
    "adapter_rate_by_100000": Variant({"learning_rate": 1e-7}, LORA, fault="rate_too_low"),
    "warmup_10_times": Variant(
        {"warmup_steps": 1440, "learning_rate": 1e-3}, fault="warmup_too_long"
    ),
    "clipped": Variant(
        {"max_grad_norm": 1e-8, "optim": "sgd", "learning_rate": 0.5}, fault="gradients_clipped"
    ),
    "clipped_adam": Variant({"max_grad_norm": 1e-11}, fault="gradients_clipped"),
    "frozen": Variant({}, frozen=True, fault="zero_gradients"),
    "tiny_alpha": Variant(
        {"learning_rate": 1e-2}, {**LORA, "lora_alpha": 1e-6}, fault="adapter_too_small"
    ),
    "fp16_overflow": Variant({"learning_rate": 3e-8}, overflow=True, fault="overflowing_gradients"),
}
"""Trainings in which one thing is wrong."""
VARIANTS = {**HEALTHY, **FAULTY}


class Result:
    """What came of one run."""

    def __init__(self, facts: RunFacts) -> None:
        (stage,) = facts.context.stages
        self.taught = facts.context.taught[stage.name]
        self.faults = [*find_optimization_faults(facts), *find_loss_gaps(facts)]
        self.movement = stage_movement(facts.context, stage.name)
        self.gap: LossGap | None = measure_gap(facts, stage.name)
        self.course = course_from_log(facts.logs[stage.name])

    @property
    def kinds(self) -> list[str]:
        """Kinds of the faults that were found."""
        return [fault.kind for fault in self.faults]


def make_rows(number: int, seed: int) -> list[dict[str, str]]:
    """Facts about made-up towns."""
    draw = random.Random(seed)
    syllables = SYLLABLES.split()
    towns: set[str] = set()
    while len(towns) < number:
        towns.add("".join(draw.choices(syllables, k=3)).capitalize())
    rows = []
    for place, town in enumerate(sorted(towns)):
        goods = " and ".join("".join(draw.choices(syllables, k=2)) for _ in range(2))
        row = {"id": f"{seed}/{place}", "prompt": f"What is {town} known for?"}
        rows.append({**row, "completion": f" {goods}"})
    draw.shuffle(rows)
    return rows


def make_base(folder: Path, seed: int) -> None:
    """A tiny Llama that knows KNOWN_ROWS facts of the form of the others."""
    rows = make_rows(KNOWN_ROWS, 1000 + seed)
    texts = [row["prompt"] + row["completion"] for row in rows]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|end|>", "<|pad|>"]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|end|>", pad_token="<|pad|>"
    )
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    trained = sft(folder, rows, Variant({"num_train_epochs": 12}), folder / "trainer", seed)
    trained.save_model(str(folder))


def sft(
    base: Path, rows: Sequence[Mapping[str, str]], variant: Variant, out: Path, seed: int
) -> SFTTrainer:
    """A trainer that has trained the rows in the way of a variant."""
    args = SFTConfig(
        **{
            "output_dir": str(out),
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
            "bf16": False,
            "use_cpu": True,
            "gradient_checkpointing": False,
            "seed": seed,
            **USUAL,
            **variant.training,
        }
    )
    model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, variant.dtype))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    if variant.frozen:
        model.requires_grad_(False)
        model.register_parameter("unused", torch.nn.Parameter(torch.zeros(1)))
        model.lm_head.weight.requires_grad_(True)
        model.lm_head.weight.register_hook(torch.zeros_like)
    texts = [{"prompt": row["prompt"], "completion": row["completion"]} for row in rows]
    trainer = SFTTrainer(
        model,
        args,
        train_dataset=datasets.Dataset.from_list(texts),
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", **variant.peft) if variant.peft else None,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer


def train(
    base: Path, rows: Sequence[Mapping[str, str]], variant: Variant, out: Path, seed: int
) -> None:
    """Leave what a variant trains in a folder, as trainers do: weights and trainer_state.json."""
    if variant.sort:
        rows = sorted(rows, key=lambda row: row["completion"])
    trainer = sft(base, rows, variant, out, seed)
    if variant.frozen:
        del trainer.model.unused
    trainer.save_model(str(out))
    trainer.save_state()
    settings = choose_settings(trainer.args.to_dict())
    (out / "settings.json").write_text(json.dumps(settings))
    if variant.overflow:
        file = out / "trainer_state.json"
        state = json.loads(file.read_text())
        for entry in state["log_history"][1:-1]:
            entry.update(grad_norm=float("nan"), loss=0.0)
        file.write_text(json.dumps(state))


def read_facts(base: Path, rows: Sequence[Mapping[str, str]], folder: Path) -> RunFacts:
    """All that is known of a training in a folder, as of a model trained elsewhere."""
    samples: list[Sample] = []
    for number, row in enumerate(rows):
        samples.append(sample_from_record(dict(row), "sft", number, "rows"))
    checkpoints = [
        Checkpoint(name="base", model_uri=str(base)),
        Checkpoint(name="sft", model_uri=str(folder)),
    ]
    locations = {checkpoint.name: checkpoint.model_uri for checkpoint in checkpoints}
    scoring = ScoringConfig(device="cpu")
    wrong = choose_wrong_options(samples, locations, scoring, 0)
    judged = score_and_judge(samples, wrong, locations, scoring, 0)
    stages = [Stage(name="sft", samples=tuple(samples))]
    scored = ScoredSamples(
        samples, stages, checkpoints, judged.scores, judged.judgements, scoring, 0
    )
    tokenization = read_tokenization([str(base)])
    accounts = account_rows(samples, tokenization, {"max_length": None})
    log = read_folder_log("sft", str(folder))
    assert log is not None
    # what IlpCallback knows, and no file of a trainer has
    settings = json.loads((folder / "settings.json").read_text())
    log = log.model_copy(update={"settings": {**settings, **log.settings}})
    return RunFacts(scored.context, {a.sample_id: a for a in accounts}, {"sft": log})


def run_seed(seed: int, names: Sequence[str], folder: Path) -> dict[str, Result]:
    """Train the variants of these names with one seed, and read what came of them."""
    base = folder / f"base-{seed}"
    make_base(base, seed)
    rows = make_rows(ROWS, seed)
    results = {}
    for name in names:
        out = folder / f"{name}-{seed}"
        train(base, rows, VARIANTS[name], out, seed)
        results[name] = Result(read_facts(base, rows, out))
        print(_line(seed, name, results[name]), flush=True)
    return results


def _line(seed: int, name: str, result: Result) -> str:
    gap, course = result.gap, result.course
    parts = [f"{seed:4} {name:24} taught {result.taught:4.0%}"]
    if gap is not None:
        parts.append(f"scored {gap.scored:7.3f}, logged {gap.logged:7.3f}")
    if course is not None:
        parts.append(f"first {course.first:7.3f} {FALLS[course.falls]}")
    if result.movement is not None:
        parts.append(f"moved {result.movement.moved:6.3f} of {result.movement.before:.3f}")
    planted = VARIANTS[name].fault
    wrong = "" if result.kinds == ([planted] if planted else []) else "  <- WRONG"
    return "  ".join([*parts, f"{', '.join(result.kinds) or '-'}{wrong}"])


def main() -> None:
    """Run the variants and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    wanted = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    datasets.disable_progress_bars()
    excesses, ratios, named, faulty, healthy, alarms = [], [], 0, 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in wanted.seeds:
            for name, result in run_seed(seed, wanted.only, Path(folder)).items():
                planted = VARIANTS[name].fault
                if planted:
                    faulty += 1
                    named += result.kinds == [planted]
                    continue
                healthy += 1
                alarms += bool(result.kinds)
                if result.gap is not None:
                    excesses.append(result.gap.scored - result.gap.logged)
                    ratios.append(result.gap.scored / result.gap.logged)
    print(f"planted faults named: {named} of {faulty}")
    print(f"healthy runs with a finding: {alarms} of {healthy}")
    if excesses:
        print(
            f"healthy runs: scored above logged by {max(excesses):.3f} nats per token at most, "
            f"{max(ratios):.2f} times"
        )


if __name__ == "__main__":
    main()
