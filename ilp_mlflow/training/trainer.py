"""One stage of supervised fine-tuning with TRL's SFTTrainer, and a ledger of what it really trained on."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import time
import typing
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from peft import LoraConfig, PeftModel
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig

from ilp_mlflow.core.errors import ConfigError, DatasetError, ModelError, first_line, suggest
from ilp_mlflow.core.progress import task
from ilp_mlflow.core.values import Exposure, Sample, Signal, Stage, schema
from ilp_mlflow.scoring.encoding import Tokenization, encode
from ilp_mlflow.scoring.loading import LoadedModel, is_out_of_memory
from ilp_mlflow.training.scheduled_trainer import (
    SaveRounds,
    ScheduledBatches,
    ScheduledTrainer,
    trainer_rows,
)

logger = logging.getLogger(__name__)

OURS = {
    "output_dir": "checkpoints go to MLflow",
    "report_to": "metrics go to MLflow through ilp",
    "run_name": "runs are named after their stage",
    "packing": "a packed batch hides which samples are in it",
    "padding_free": "a batch without padding hides which samples are in it",
    "train_sampling_strategy": "the order is the stage's 'schedule'",
    "chat_template_path": "set 'tokenizer.chat_template', so that scoring uses it too",
    "eos_token": "set 'tokenizer.eos_token', so that scoring uses it too",
    "resume_from_checkpoint": "run the stage again from its parent",
    "eval_strategy": "every sample is scored after the stage; set 'score_every' for scores inside it",
    "save_strategy": "set 'score_every' to keep checkpoints inside a stage",
    "save_only_model": "an interrupted stage goes on from all that the trainer keeps",
    "remove_unused_columns": "ilp decides which columns reach the model",
    "shuffle_dataset": "the order is the stage's 'schedule'",
    "data_seed": "the order depends on 'seed'",
    "dataset_text_field": "rows have 'prompt' and 'completion'",
    "dataset_kwargs": "TRL prepares the rows",
    "eval_on_start": "every sample is scored after the stage",
    "push_to_hub": "models are registered in MLflow",
}
INIT = ("attn_implementation", "dtype")
"""The `model_init_kwargs` that change how a model is trained and not which one it is."""
POSITIVE = (
    "num_train_epochs",
    "learning_rate",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "logging_steps",
    "r",
)
"""Options that make no sense at 0 or below."""
PREVIEWED = 1000
"""Rows of a stage whose length is checked before a run is started."""
MAX_UNSUPERVISED = 0.1
"""A stage in which more than this share of rows has no token to learn from is refused."""


@dataclasses.dataclass(frozen=True)
class TrainedStage:
    """A trained stage."""

    loaded: LoadedModel
    exposures: list[Exposure]
    """One per sample, dropped ones included."""
    signals: pa.Table
    """Columns of `Signal`, in the order of training."""
    tokens: int
    """Tokens passed through the model."""
    seconds: float
    """Wall time of the training loop."""


def check_options(stage: str, training: Mapping[str, Any], peft: Mapping[str, Any] | None) -> None:
    """Raise ConfigError when a stage's options are unknown to SFTConfig or LoraConfig, refused by them, or ours to set."""
    for name, reason in OURS.items():
        if training.get(name) not in (None, False, "no", "none"):
            raise ConfigError(f"stage '{stage}': training.{name} cannot be set: {reason}")
    for name in training.get("model_init_kwargs") or {}:
        if name not in INIT:
            raise ConfigError(
                f"stage '{stage}': training.model_init_kwargs.{name} cannot be set: scoring would load another model; "
                f"known are: {', '.join(INIT)}"
            )
    _build(
        SFTConfig,
        {**_defaults(), **training, "output_dir": "unused", "report_to": "none"},
        f"stage '{stage}': training",
    )
    if peft is not None:
        _build(LoraConfig, peft, f"stage '{stage}': peft")


def check_max_length(stage: Stage, tokenization: Tokenization) -> None:
    """Raise DatasetError when `max_length` leaves too many of the first rows of a stage without a token to learn from.

    The trainer's own preparation is checked in full before the first step; this is the same, earlier, on a part.
    """
    limit = stage.training.get("max_length", SFTConfig.max_length)
    first = stage.samples[:PREVIEWED]
    encoded = [
        encode(tokenization.tokenizer, s.prompt, s.completion, tokenization.end_token_ids)
        for s in first
    ]
    if limit and stage.training.get("truncation_mode") in (None, "keep_start"):
        supervised = np.array([e.start < limit for e in encoded])
        _refuse_unsupervised(stage, first, supervised, max(len(e.ids) for e in encoded), limit)


def answer_fits(stage: Stage, sample: Sample, tokenization: Tokenization) -> bool:
    """Whether the answer of a sample is whole, its end token included, once a stage has cut the row to `max_length` tokens."""
    limit = stage.training.get("max_length", SFTConfig.max_length)
    encoded = encode(
        tokenization.tokenizer, sample.prompt, sample.completion, tokenization.end_token_ids
    )
    # a first token has nothing that it could be predicted from
    needed = (
        encoded.ids
        if stage.training.get("truncation_mode") in (None, "keep_start")
        else encoded.ids[encoded.start - 1 :]
    )
    return not limit or len(needed) <= limit


def train_stage(
    stage: Stage,
    parent: LoadedModel,
    folder: Path,
    log: Callable[[dict[str, float], int], None] = lambda metrics, step: None,
    keep: Callable[[LoadedModel, int], None] = lambda loaded, step: None,
) -> TrainedStage:
    """Train `stage` from `parent`, which is changed in place; `folder` keeps where it stands, and a training that was interrupted
    there goes on behind its last round that was kept, to the same end.

    `log` receives loss, learning rate, gradient norm and tokens per second with the optimizer step; `keep` the model
    every `stage.score_every` steps. Raises ConfigError for bad options, DatasetError when too many rows have no token
    to learn from, ModelError when the weights are not finite at the end.
    """
    options = {**_defaults(), **stage.training}
    options.pop("model_init_kwargs", None)
    ours = {
        "report_to": "none",
        "save_strategy": "no",
        "save_total_limit": 1,
        "ignore_data_skip": True,
        "disable_tqdm": True,
    }
    args = SFTConfig(**{**options, **ours, "output_dir": str(folder)})
    fresh = stage.peft is not None and not isinstance(parent.model, PeftModel)
    datasets.disable_progress_bars()
    ids = [sample.id for sample in stage.samples]
    try:
        trainer = ScheduledTrainer(
            model=parent.model,
            args=args,
            train_dataset=trainer_rows(stage.samples, 0),
            eval_dataset=trainer_rows(stage.validation, len(ids)) if stage.validation else None,
            processing_class=parent.tokenizer,
            peft_config=LoraConfig(**{"task_type": "CAUSAL_LM", **(stage.peft or {})})
            if fresh
            else None,
        )
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"stage '{stage.name}': SFTTrainer refuses it: {first_line(error)}"
        ) from None
    if args.dataloader_drop_last and len(trainer.train_dataset) < args.train_batch_size:
        raise ConfigError(
            f"stage '{stage.name}': fewer rows than a batch, and training.dataloader_drop_last drops them all"
        )
    rounds = trainer.follow(stage, log)
    supervised, kept = _supervised(trainer.train_dataset, len(ids))
    lengths = [
        len(encode(parent.tokenizer, s.prompt, s.completion, parent.end_token_ids).ids)
        for s in stage.samples
    ]
    _refuse_unsupervised(stage, stage.samples, supervised, max(lengths), args.max_length)
    now = dataclasses.replace(parent, model=trainer.model)
    trainer.remove_callback(PrinterCallback)
    with contextlib.ExitStack() as stack:
        trainer.add_callback(_Watch(stage, stack, log, lambda step: keep(now, step)))
        trainer.add_callback(SaveRounds(rounds))
        started = time.perf_counter()
        try:
            begun = rounds.resume()
            if begun:
                logger.warning(
                    "stage '%s' goes on behind step %s", stage.name, begun.rpartition("-")[2]
                )
            trainer.train(resume_from_checkpoint=begun)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise ModelError(
                f"stage '{stage.name}' does not fit into the memory of {trainer.model.device}; "
                "lower training.per_device_train_batch_size or training.max_length, or train an adapter (peft)"
            ) from None
        seconds = rounds.seconds + time.perf_counter() - started
    for name, weights in trainer.model.named_parameters():
        if weights.requires_grad and not torch.isfinite(weights).all():
            raise ModelError(
                f"stage '{stage.name}' diverged: {name} is not finite; lower training.learning_rate"
            )
    signals = _signals(rounds, stage)
    seen = Counter(signals["sample_id"].to_pylist())
    exposures = [
        Exposure(
            sample_id=id_,
            stage=stage.name,
            exposures=seen[id_],
            supervised_tokens=int(supervised[i]),
            truncated_tokens=max(0, lengths[i] - int(kept[i])),
        )
        for i, id_ in enumerate(ids)
    ]
    return TrainedStage(now, exposures, signals, rounds.passed_tokens, seconds)


class _Watch(TrainerCallback):
    """Logs, counts steps and keeps checkpoints."""

    def __init__(
        self, stage: Stage, stack: contextlib.ExitStack, log: Any, keep: Callable[[int], None]
    ) -> None:
        self.stage, self.stack, self.log, self.keep = stage, stack, log, keep
        self.every = stage.score_every
        self.before = (time.perf_counter(), 0.0)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.advance = self.stack.enter_context(task(f"train {self.stage.name}", state.max_steps))
        self.advance(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.advance(1)
        if (
            self.every
            and state.global_step % self.every == 0
            and state.global_step < state.max_steps
        ):
            self.keep(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        metrics: dict[str, float] = {
            k: float(logs[k])
            for k in ("loss", "learning_rate", "grad_norm", "mean_token_accuracy")
            if k in logs
        }
        if "loss" in logs:
            now, tokens = time.perf_counter(), float(logs["num_tokens"])
            metrics["tokens_per_second"] = (tokens - self.before[1]) / (now - self.before[0])
            self.before = (now, tokens)
            self.log(metrics, state.global_step)


def _defaults() -> dict[str, Any]:
    """Log from the first step on; and without an accelerator no bf16, which TRL asks for and then refuses."""
    return {"logging_first_step": True, **({} if torch.cuda.is_available() else {"bf16": False})}


def _signals(rounds: ScheduledBatches, stage: Stage) -> pa.Table:
    place = [int(row) for _, rows, _, _ in rounds.signals for row in rows]
    return pa.table(
        {
            "sample_id": [rounds.ids[row] for row in place],
            "stage": [stage.name] * len(place),
            "step": [step for step, rows, _, _ in rounds.signals for _ in rows],
            "loss": [x for _, _, losses, _ in rounds.signals for x in losses.tolist()],
            "token_accuracy": [x for _, _, _, shares in rounds.signals for x in shares.tolist()],
        },
        schema=schema(Signal),
    )


def _supervised(prepared: Any, n: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Supervised and kept tokens by row, from what the trainer prepared; 0 for rows it dropped."""
    supervised, kept = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    for example in prepared:
        supervised[example["row"]] = sum(label != -100 for label in example["labels"][1:])
        kept[example["row"]] = len(example["input_ids"])
    return supervised, kept


def _refuse_unsupervised(
    stage: Stage, samples: Sequence[Sample], supervised: Any, longest: int, limit: int | None
) -> None:
    empty = np.flatnonzero(supervised == 0)
    if len(empty) > MAX_UNSUPERVISED * len(samples):
        raise DatasetError(
            f"stage '{stage.name}': {len(empty)} of {len(samples)} samples have no token to learn from, "
            f"the first is '{samples[empty[0]].id}'; the longest sample has {longest} tokens and "
            f"training.max_length is {limit}: raise it"
        )


def _type_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def _build(config: type[Any], options: Mapping[str, Any], where: str) -> None:
    known = [f.name for f in dataclasses.fields(config) if f.init]
    hints = typing.get_type_hints(config)
    for name in options:
        if name not in known:
            raise ConfigError(
                f"{where}.{name}: unknown option of {config.__name__}; {suggest(name, known)}"
            )
        try:
            TypeAdapter(
                hints[name], config=ConfigDict(arbitrary_types_allowed=True)
            ).validate_python(options[name])
        except PydanticSchemaGenerationError:
            pass  # a type only the library knows; it checks it itself
        except ValidationError:
            raise ConfigError(
                f"{where}.{name}: expected {_type_name(hints[name])}, got {options[name]!r}"
            ) from None
        if name in POSITIVE and not (options[name] is None or 0 < options[name] < math.inf):
            raise ConfigError(f"{where}.{name}: must be above 0, got {options[name]!r}")
    try:
        config(**options)
    except (TypeError, ValueError, RuntimeError, ImportError) as error:
        raise ConfigError(f"{where}: {config.__name__} refuses it: {first_line(error)}") from None
