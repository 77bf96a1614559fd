"""Faults of whole trainings, each planted in a small real TRL run, and what the tool says on top of its report; beside them healthy runs.

    python -m experiments.faults.runs --seeds 100,101,102,103,104
    python -m experiments.faults.runs --seeds 100 --only rate_too_high,full

A fault is found where a finding has its kind. Any other finding of a kind that means a fault, and any finding of a healthy run, is a false alarm.
"""

import argparse
import json
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from experiments.faults import world
from ilp_mlflow import pipeline
from ilp_mlflow.core.values import Report
from ilp_mlflow.data.checkpoint_folders import experiment_for, find_checkpoints
from ilp_mlflow.trl_callback import IlpCallback

ROWS = 64
BATCH = 8
PLAIN = "{%- for m in messages -%}{{ m.content + (eos_token if m.role == 'assistant' else ' ') }}{%- endfor -%}"
"""A user's turn, the answer, the end token."""
LORA = {"r": 32, "lora_alpha": 64, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


class Bench:
    """A base and rows in a folder, and ways to train on them."""

    def __init__(self, seed: int, home: Path) -> None:
        self.seed, self.home = seed, home
        self.base = world.base(seed, home / "base", PLAIN)
        draw = random.Random(f"runs {seed}")
        questions, cities = iter(world.questions(seed)), world.cities(seed)
        self.rows: list[Any] = []
        for n in range(ROWS):
            answer = " ".join(draw.sample(cities, 2 + n % 2))
            self.rows.append(
                {
                    "id": f"r{n}",
                    "prompt": [{"role": "user", "content": next(questions)}],
                    "completion": [{"role": "assistant", "content": answer}],
                }
            )
        self.checkpoints = {"base": str(self.base)}

    def model(self):
        return AutoModelForCausalLM.from_pretrained(self.base, dtype="float32")

    def tokenizer(self):
        return AutoTokenizer.from_pretrained(self.base)

    def train(
        self,
        model: Any = None,
        name: str = "sft",
        rows: list[dict] | None = None,
        lora: dict | None = None,
        collate: Callable | None = None,
        callbacks: list[TrainerCallback] | None = None,
        trainer_class: type = SFTTrainer,
        tokenizer: Any = None,
        **options: Any,
    ) -> Any:
        """Train with TRL; the model is saved in a folder with the trainer's state."""
        defaults = {
            "num_train_epochs": 25,
            "per_device_train_batch_size": BATCH,
            "learning_rate": 2e-3,
            "lr_scheduler_type": "cosine",
            "logging_steps": 4,
            "bf16": False,
            "gradient_checkpointing": False,
            "seed": self.seed,
        }
        arguments = SFTConfig(
            output_dir=str(self.home / "scratch"),
            save_strategy=options.pop("save_strategy", "no"),
            report_to="none",
            disable_tqdm=True,
            **{**defaults, **options},
        )
        tokenizer = tokenizer or self.tokenizer()
        columns = [{k: v for k, v in r.items() if k != "id"} for r in rows or self.rows]
        trainer = trainer_class(
            model=model if model is not None else self.model(),
            args=arguments,
            train_dataset=datasets.Dataset.from_list(columns),
            processing_class=tokenizer,
            peft_config=LoraConfig(**{**LORA, **lora}) if lora is not None else None,
            callbacks=callbacks or [],
        )
        # what the tool says is all that is printed
        trainer.remove_callback(PrinterCallback)
        if collate is not None:
            inner = trainer.data_collator
            trainer.data_collator = lambda features: collate(inner(features))
        trainer.train()
        folder = self.home / name
        trainer.save_model(str(folder))
        tokenizer.save_pretrained(folder)
        trainer.state.save_to_json(str(folder / "trainer_state.json"))
        self.checkpoints[name] = str(folder)
        return trainer.model

    def follow(self, **options: Any) -> Report:
        """Train with the callback; what it says."""
        callback = IlpCallback(self.rows, base=str(self.base))
        self.train(callbacks=[callback], **options)
        assert callback.report is not None
        return callback.report

    def diagnose(self) -> Report:
        """What the tool says of the folders; all rows are those of the first one behind the base."""
        data = world.write(self.home / "rows.jsonl", self.rows)
        checkpoints = find_checkpoints(
            [f"{name}={path}" for name, path in self.checkpoints.items()]
        )
        return pipeline.run_elsewhere(experiment_for(checkpoints, [str(data)]), checkpoints)


def folders(**options: Any) -> Callable[[Bench], Report]:
    """A run with these options, judged from its folder alone."""

    def run(bench: Bench) -> Report:
        bench.train(**options)
        return bench.diagnose()

    return run


def followed(**options: Any) -> Callable[[Bench], Report]:
    """A run with these options, judged by the callback."""
    return lambda bench: bench.follow(**options)


def end_masked(bench: Bench) -> Report:
    """The collator masks padding, and padding is the end token."""

    def collate(batch: dict) -> dict:
        batch["labels"] = batch["labels"].masked_fill(batch["input_ids"] == 1, -100)
        return batch

    tokenizer = bench.tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    bench.train(collate=collate, tokenizer=tokenizer)
    return bench.diagnose()


def idle(bench: Bench) -> Report:
    """The adapter is saved before it is trained."""
    folder = str(bench.home / "sft")
    get_peft_model(bench.model(), LoraConfig(**LORA)).save_pretrained(folder)
    bench.checkpoints["sft"] = folder
    return bench.diagnose()


def merge(bench: Bench, base: Any, name: str = "merged") -> None:
    """The adapter of `bench`, merged into `base`, as one more folder."""
    merged = PeftModel.from_pretrained(base, bench.checkpoints["sft"]).merge_and_unload()
    merged.save_pretrained(bench.home / name)
    bench.tokenizer().save_pretrained(bench.home / name)
    bench.checkpoints[name] = str(bench.home / name)


def merged(bench: Bench) -> Report:
    """A merged copy of what the adapter learned."""
    bench.train(lora={})
    merge(bench, bench.model())
    return bench.diagnose()


def copy_lost(bench: Bench) -> Report:
    """The merged copy has the base's tensors in the second layer."""
    bench.train(lora={})
    merge(bench, bench.model())
    folder, base = bench.checkpoints["merged"], bench.model().state_dict()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    state = {n: base[n] if ".layers.1." in n else w for n, w in model.state_dict().items()}
    model.load_state_dict(state)
    model.save_pretrained(folder)
    return bench.diagnose()


def copy_coarse(bench: Bench) -> Report:
    """The merged copy has eight values per tensor."""
    bench.train(lora={})
    merge(bench, bench.model())
    model = AutoModelForCausalLM.from_pretrained(bench.checkpoints["merged"], dtype="float32")
    for weights in model.parameters():
        step = weights.abs().max() / 4
        weights.data = (weights.data / step).round() * step
    model.save_pretrained(bench.checkpoints["merged"])
    return bench.diagnose()


def other_base(bench: Bench) -> Report:
    """The adapter is merged into another base."""
    bench.train(lora={})
    base = bench.model()
    torch.manual_seed(bench.seed)
    for weights in base.parameters():
        weights.data += 0.5 * weights.std() * torch.randn_like(weights)
    merge(bench, base)
    return bench.diagnose()


def put_on_other_base(bench: Bench) -> Report:
    """The adapter of a model that is trained further is put on the model below that."""
    bench.train(num_train_epochs=12, name="instruct")
    base = AutoModelForCausalLM.from_pretrained(bench.checkpoints.pop("instruct"), dtype="float32")
    bench.train(model=base, lora={}, logging_steps=1)
    _name_base(bench, "elsewhere/instruct")
    return bench.diagnose()


def put_on_noise(bench: Bench) -> Report:
    """The adapter is put on another base, under which its rows lose no more than under its own."""
    bench.train(lora={})
    _name_base(bench, "elsewhere/base")
    bench.checkpoints["base"] = _other_base(bench)
    return bench.diagnose()


def base_moved(bench: Bench) -> Report:
    """The adapter is put on its own base, which lies elsewhere by now."""
    bench.train(lora={})
    _name_base(bench, "elsewhere/base")
    return bench.diagnose()


def _name_base(bench: Bench, name: str) -> None:
    """Make the adapter say that its base is called `name`."""
    file = Path(bench.checkpoints["sft"]) / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": name}))


def _other_base(bench: Bench) -> str:
    """Folder of a base of the same form with other weights."""
    folder = bench.home / "other"
    shutil.copytree(bench.base, folder)
    model = bench.model()
    torch.manual_seed(bench.seed)
    for weights in model.parameters():
        weights.data += weights.std() * torch.randn_like(weights)
    model.save_pretrained(folder)
    return str(folder)


def head_remade(bench: Bench) -> Report:
    """The head is made anew when the trained model is loaded once more to be resized."""
    bench.train()
    folder = bench.checkpoints["sft"]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    model.config.tie_word_embeddings = False
    torch.manual_seed(bench.seed)
    old = model.lm_head.weight
    made = old.std() * torch.randn_like(old)
    model.lm_head.weight = torch.nn.Parameter(made)
    model.save_pretrained(folder)
    return bench.diagnose()


def shift_labels(batch: dict) -> dict:
    """Labels one place to the left, as a model shifts them itself."""
    batch["labels"] = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=-100)
    return batch


def pad_in_front(batch: dict) -> dict:
    """Padding in front of the rows, with a mask that leaves it out."""
    lengths = batch["attention_mask"].sum(1)
    for name in ("input_ids", "labels", "attention_mask"):
        for place, length in enumerate(lengths):
            batch[name][place] = batch[name][place].roll(-int(length))
    return batch


def attend_to_padding(batch: dict) -> dict:
    """The same with a mask that leaves nothing out."""
    batch = pad_in_front(batch)
    batch["attention_mask"] = torch.ones_like(batch["attention_mask"])
    return batch


def new_tokens(bench: Bench) -> Report:
    """Answers begin with new tokens, and the adapter leaves embedding and head as they were made."""
    tokenizer, model = bench.tokenizer(), bench.model()
    tokenizer.add_tokens(["<one>", "<two>"])
    model.resize_token_embeddings(len(tokenizer))
    for n, row in enumerate(bench.rows):
        row["completion"][0]["content"] = (
            f"{'<one>' if n % 2 else '<two>'} {row['completion'][0]['content']}"
        )
    bench.train(model=model, lora={"target_modules": ["q_proj", "v_proj"]}, tokenizer=tokenizer)
    return bench.diagnose()


def cut_off(bench: Bench) -> Report:
    """The trainer cuts rows to 16 tokens; a third of them is longer."""
    for n, row in enumerate(bench.rows):
        if n % 3 == 0:
            row["prompt"][0]["content"] = "the " * (5 + n % 4) + row["prompt"][0]["content"]
    bench.train(max_length=14)
    return bench.diagnose()


def no_stop(bench: Bench) -> Report:
    """The token that ends a turn is no end token of the model."""
    template = "{%- for m in messages -%}{{ m.content + (' <unk>' if m.role == 'assistant' else ' ') }}{%- endfor -%}"
    (bench.base / "chat_template.jinja").write_text(template)
    bench.train()
    return bench.diagnose()


class OwnLoss(SFTTrainer):
    """Computes its loss itself, from plain logits."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        labels = inputs["labels"][:, 1:].reshape(-1)
        logits = outputs.logits[:, :-1].reshape(len(labels), -1)
        loss = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100)
        return (loss, outputs) if return_outputs else loss


class InnerModel(SFTTrainer):
    """Calls what is inside the model, so that nobody sees its passes."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        hidden = model.model(input_ids=inputs["input_ids"]).last_hidden_state
        labels = inputs["labels"][:, 1:].reshape(-1)
        logits = model.lm_head(hidden)[:, :-1].reshape(len(labels), -1)
        loss = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100)
        return (loss, {"logits": logits}) if return_outputs else loss


class NoGradient(SFTTrainer):
    """Its loss has no gradient."""

    def compute_loss(self, *args, **kwargs):
        loss = super().compute_loss(*args, **kwargs)
        return 0 * loss + (loss.detach() if torch.is_tensor(loss) else 0)


def other_run(bench: Bench) -> Report:
    """The weights in the folder are those of another run."""
    bench.train()
    log = (bench.home / "sft" / "trainer_state.json").read_text()
    other = [
        {**r, "completion": bench.rows[(n * 7 + 5) % ROWS]["completion"]}
        for n, r in enumerate(bench.rows)
    ]
    shutil.rmtree(bench.home / "sft")
    bench.train(rows=other)
    (bench.home / "sft" / "trainer_state.json").write_text(log)
    return bench.diagnose()


HEALTHY: dict[str, Callable[[Bench], Report]] = {
    "full": folders(),
    "lora": folders(lora={}),
    "lora_r2": folders(lora={"r": 2, "lora_alpha": 4}, learning_rate=1e-2, num_train_epochs=40),
    "dora": folders(lora={"use_dora": True}),
    "bf16": folders(bf16=True, use_cpu=True),
    "one_epoch": folders(num_train_epochs=1),
    "constant": folders(lr_scheduler_type="constant"),
    "keep_end": folders(max_length=64, truncation_mode="keep_end"),
    "decay": folders(weight_decay=0.1),
    "batch_1": folders(per_device_train_batch_size=1, learning_rate=5e-4, num_train_epochs=12),
    "accumulation": folders(per_device_train_batch_size=1, gradient_accumulation_steps=8),
    "smoothing": folders(label_smoothing_factor=0.1),
    "merged": merged,
    "base_moved": base_moved,
    "followed": followed(),
    "followed_lora": followed(lora={}),
    "own_loss": followed(trainer_class=OwnLoss),
    "padded_in_front": followed(collate=pad_in_front),
}
"""Unusual settings that are right: nothing may be said of them but what is true."""
FAULTS: dict[str, tuple[str, Callable[[Bench], Report]]] = {
    "end_masked": ("end_not_in_the_loss", end_masked),
    "rate_too_high": ("rate_too_high", folders(learning_rate=3.0)),
    "rate_too_low": ("rate_too_low", folders(learning_rate=1e-8)),
    "warm_up": ("warmup_too_long", folders(warmup_steps=20000)),
    "no_gradient": ("zero_gradients", folders(trainer_class=NoGradient)),
    "clipped": ("gradients_clipped", followed(optim="sgd", max_grad_norm=1e-6)),
    "idle": ("idle_adapter", idle),
    "copy_lost": ("faulty_copy", copy_lost),
    "copy_coarse": ("faulty_copy", copy_coarse),
    "other_base": ("faulty_copy", other_base),
    "put_on_other_base": ("other_base", put_on_other_base),
    "put_on_noise": ("scored_is_not_trained", put_on_noise),
    "new_tokens": ("untrained_tokens", new_tokens),
    "cut_off": ("cut", cut_off),
    "no_stop": ("end_does_not_stop", no_stop),
    "inner_model": ("no_ledger", followed(trainer_class=InnerModel)),
    "head_remade": ("remade_embedding", head_remade),
    "labels_shifted": ("labels_shifted", followed(collate=shift_labels)),
    "padding_attended": ("attended_padding", followed(collate=attend_to_padding)),
    "few_steps": ("rows_in_no_batch", followed(max_steps=4)),
    "other_run": ("scored_is_not_trained", other_run),
}
"""What is planted, and the kind of finding that names it."""
TRUE_AS_WELL = {"few_steps": "insufficient_optimization"}
"""What else is so of a run: one that ends after four steps stopped too early, besides."""


def measure(seed: int, name: str) -> dict:
    """One run: what was planted, and the kinds of all findings."""
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(seed, Path(scratch))
        expected, run = ("", HEALTHY[name]) if name in HEALTHY else FAULTS[name]
        report = run(bench)
    counts = Counter(verdict.status for verdict in report.verdicts)
    causes = Counter(d.cause or "unexplained" for d in report.diagnoses)
    return {
        "seed": seed,
        "run": name,
        "expected": expected,
        "found": [finding.kind or finding.evidence.cause for finding in report.findings],
        "status": dict(counts),
        "causes": dict(causes),
        "said": [
            f"{f.subject.kind} {f.subject.name}: {f.evidence.reason}" for f in report.findings
        ],
    }


def scores(results: list[dict]) -> dict[str, float | int]:
    """Recall of the faults and precision of all findings, 0..1, and how many healthy runs had one."""
    planted = [r for r in results if r["expected"]]
    right = sum(r["expected"] in r["found"] for r in planted)
    found = sum(len(counted_findings(r)) for r in results)
    of_planted = sum(r["found"].count(r["expected"]) for r in planted)
    return {
        "faults": len(planted),
        "recall": right / len(planted) if planted else float("nan"),
        "precision": of_planted / found if found else float("nan"),
        "healthy": sum(not r["expected"] for r in results),
        "healthy with findings": sum(bool(r["found"]) for r in results if not r["expected"]),
    }


def counted_findings(result: dict) -> list[str]:
    """The kinds that were found in a run, without what is true of it as well."""
    return [kind for kind in result["found"] if kind != TRUE_AS_WELL.get(result["run"])]


def main() -> None:
    """Measure, and print one JSON document."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="100,101,102,103,104")
    parser.add_argument("--only", default="", help="names of runs, separated by commas")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else [*HEALTHY, *FAULTS]
    results = [measure(int(seed), name) for seed in options.seeds.split(",") for name in names]
    print(json.dumps({"runs": results, "scores": scores(results)}, indent=1))


if __name__ == "__main__":
    main()
