"""One stage of supervised fine-tuning with TRL, and what was really trained of every sample."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import torch
from peft import LoraConfig, PeftModel
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig

from ilp_mlflow.core.errors import ConfigError, DatasetError, ModelError, first_line
from ilp_mlflow.core.terminal.progress import task
from ilp_mlflow.core.training_log import TrainingLog
from ilp_mlflow.core.values import Exposure, Sample, Stage
from ilp_mlflow.scoring.forward import without_router
from ilp_mlflow.scoring.models.loading import LoadedModel, is_out_of_memory
from ilp_mlflow.scoring.tokens.encoding import Tokenization, encode_sample
from ilp_mlflow.training.accounts.exposure_ledger import EndOfBatch, ExposureLedger
from ilp_mlflow.training.accounts.prepared_rows import mask_left_out, read_numbered_rows
from ilp_mlflow.training.accounts.row_account import RowAccount
from ilp_mlflow.training.first_step import warn_at_first_step
from ilp_mlflow.training.options import default_options
from ilp_mlflow.training.resume import SaveRounds, checkpoint_step
from ilp_mlflow.training.scheduled_batches import Log, ScheduledBatches
from ilp_mlflow.training.scheduled_trainer import ScheduledTrainer, trainer_rows
from ilp_mlflow.training.training_logs import read_log

logger = logging.getLogger(__name__)

MAX_PREVIEWED_ROWS = 1000
"""Rows of a stage whose length is checked before a run is started."""
CHECKED_ROWS = 4
"""Rows of a stage that the trained model is run on, to see whether it gives numbers at all."""
CHECKED_TOKENS = 256
"""Tokens of each of these, at most."""
MAX_UNSUPERVISED = 0.1
"""A stage in which more than this share of rows has no token to learn from is refused."""
LOGGED = ("loss", "learning_rate", "grad_norm", "mean_token_accuracy")
"""What is logged of that which TRL logs."""

SaveCheckpoint = Callable[[LoadedModel, int], None]
"""Receives the model inside a stage, and the optimizer step."""


@dataclasses.dataclass(frozen=True)
class TrainedStage:
    """A trained stage."""

    loaded: LoadedModel
    exposures: list[Exposure]
    """One per sample, dropped ones included."""
    signals: pa.Table
    """Columns of `Signal`, in the order of training."""
    accounts: list[RowAccount]
    """One per sample: what the model saw of it, and which of that was in the loss."""
    log: TrainingLog
    """What the trainer logged."""
    tokens: int
    """Tokens passed through the model."""
    seconds: float
    """Wall time of the training loop."""


def check_max_length(stage: Stage, text: Tokenization) -> None:
    """Raise DatasetError when `max_length` leaves too many first rows no token to learn from.

    The trainer's own preparation is checked in full before the first step; this is the same,
    earlier, on a part.
    """
    limit = _max_length(stage)
    if not limit or not _keeps_start(stage):
        return
    first = stage.samples[:MAX_PREVIEWED_ROWS]
    encoded = [encode_sample(sample, text) for sample in first]
    longest = max(len(row.ids) for row in encoded)
    _refuse_unsupervised(stage, first, [row.start < limit for row in encoded], longest, limit)


def answer_fits(stage: Stage, sample: Sample, text: Tokenization) -> bool:
    """Whether `max_length` leaves the answer of a sample whole, its end token included."""
    limit = _max_length(stage)
    encoded = encode_sample(sample, text)
    if not limit:
        return True
    if _keeps_start(stage):
        return len(encoded.ids) <= limit
    # The row is cut in front, down to the answer, what its template has behind it, and one token
    # more: the first token of a row has nothing that it could be predicted from.
    return len(encoded.ids[encoded.start - 1 :]) + len(encoded.tail) <= limit


def _max_length(stage: Stage) -> int | None:
    """Tokens to which TRL cuts the rows of a stage; None: it does not."""
    limit: int | None = stage.training.get("max_length", SFTConfig.max_length)
    return limit


def _keeps_start(stage: Stage) -> bool:
    """Whether TRL cuts rows at their end."""
    return stage.training.get("truncation_mode") in (None, "keep_start")


def train_stage(
    stage: Stage,
    parent: LoadedModel,
    folder: Path,
    log: Log = lambda metrics, step: None,
    save_checkpoint: SaveCheckpoint = lambda loaded, step: None,
) -> TrainedStage:
    """Train `stage` from `parent`, whose weights are changed in place.

    Where the training stands is saved in `folder` after a round, once a minute at most. A training
    that was interrupted there goes on behind the last saved round, to the same weights.

    `log` receives loss, learning rate, gradient norm, token accuracy and tokens per second with the
    optimizer step; `save_checkpoint` the model every `stage.score_every` steps.

    Raises ConfigError for options that SFTTrainer refuses, DatasetError when too many rows have no
    token to learn from, ModelError when memory runs out or weights are not finite at the end.
    """
    trainer = _make_trainer(stage, parent, folder)
    options = trainer.args.to_dict()
    trainer.train_dataset = mask_left_out(trainer.train_dataset, stage.samples, parent, options)
    rows = read_numbered_rows(stage.samples, parent, trainer.train_dataset, options)
    longest = max(row.whole_tokens for row in rows)
    has_supervised = [row.account.supervised_tokens > 0 for row in rows]
    limit = trainer.args.max_length
    _refuse_unsupervised(stage, stage.samples, has_supervised, longest, limit)

    ledger = ExposureLedger(stage.name, stage.samples, rows)
    batches = trainer.use_schedule(stage, ledger, log)
    trained = dataclasses.replace(parent, model=trainer.model)
    listener = ledger.follow(trainer.model, lambda: int(trainer.state.global_step) + 1)
    try:
        with contextlib.ExitStack() as progress_bar:
            trainer.add_callback(EndOfBatch(listener))
            trainer.add_callback(_FirstStep(ledger, trained))
            trainer.add_callback(_StageCallback(stage, trained, progress_bar, log, save_checkpoint))
            trainer.add_callback(SaveRounds(batches))
            _run_or_resume(stage, trainer, batches)
    finally:
        listener.stop()
    seconds = batches.seconds
    _refuse_diverged(stage, trainer)
    return TrainedStage(
        trained,
        ledger.exposures(),
        ledger.signals(),
        [row.account for row in rows],
        read_log(stage.name, trainer.args, trainer.state, trainer.model),
        ledger.trained_tokens,
        seconds,
    )


def _make_trainer(stage: Stage, parent: LoadedModel, folder: Path) -> ScheduledTrainer:
    """A trainer that has prepared the rows of the stage. Raises ConfigError when TRL refuses."""
    datasets.disable_progress_bars()
    args = _sft_config(stage, folder)
    validation = None
    if stage.validation:
        validation = trainer_rows(stage.validation, len(stage.samples))
    adapter = None
    if stage.peft is not None and not isinstance(parent.model, PeftModel):
        adapter = LoraConfig(**{"task_type": "CAUSAL_LM", **stage.peft})
    try:
        trainer = ScheduledTrainer(
            model=parent.model,
            args=args,
            train_dataset=trainer_rows(stage.samples, 0),
            eval_dataset=validation,
            processing_class=parent.tokenizer,
            peft_config=adapter,
        )
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"stage '{stage.name}': SFTTrainer refuses it: {first_line(error)}"
        ) from None
    if args.dataloader_drop_last and len(trainer.train_dataset) < args.train_batch_size:
        raise ConfigError(
            f"stage '{stage.name}': fewer rows than a batch, and training.dataloader_drop_last "
            "drops them all"
        )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _sft_config(stage: Stage, folder: Path) -> SFTConfig:
    options = {**default_options(), **stage.training}
    # these are for loading the model, which is loaded already
    options.pop("model_init_kwargs", None)
    options.update(
        output_dir=str(folder),
        report_to="none",
        # SaveRounds says when to save; only the newest checkpoint is needed to go on from
        save_strategy="no",
        save_total_limit=1,
        # the schedule plans from the saved round on: there are no batches to skip
        ignore_data_skip=True,
        disable_tqdm=True,
    )
    return SFTConfig(**options)


def _run_or_resume(stage: Stage, trainer: ScheduledTrainer, batches: ScheduledBatches) -> None:
    """Train to the end, from the last saved round if there is one."""
    try:
        checkpoint = batches.resume()
        if checkpoint is None:
            trainer.train()
        else:
            logger.warning(
                "stage '%s' goes on behind step %s", stage.name, checkpoint_step(checkpoint)
            )
            trainer.train(resume_from_checkpoint=str(checkpoint))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(
            f"stage '{stage.name}' does not fit into the memory of {trainer.model.device}; lower "
            "training.per_device_train_batch_size or training.max_length, or train an adapter "
            "(peft)"
        ) from None


def _refuse_diverged(stage: Stage, trainer: ScheduledTrainer) -> None:
    """Raise ModelError where trained weights, buffers or outputs are not finite."""
    fault = _nonfinite_part(trainer)
    if fault:
        raise ModelError(
            f"stage '{stage.name}' diverged: {fault} not finite; lower training.learning_rate"
        )


def _nonfinite_part(trainer: ScheduledTrainer) -> str:
    """What of the trained model is not finite, with its verb; "" where all is."""
    for name, weights in trainer.model.named_parameters():
        if weights.requires_grad and not torch.isfinite(weights).all():
            return f"{name} is"
    for name, values in trainer.model.named_buffers():
        # a mask may be infinite on purpose
        if values.isnan().any():
            return f"{name} is"
    # weights may be finite and so large that sums of their products are not
    return "" if _gives_numbers(trainer) else "its outputs for the first rows are"


@torch.inference_mode()
def _gives_numbers(trainer: ScheduledTrainer) -> bool:
    """Whether the model gives a finite logit to something behind each of the first rows."""
    model = trainer.model
    was_training = model.training
    model.eval()
    is_finite = True
    for row in itertools.islice(trainer.train_dataset, CHECKED_ROWS):
        token_ids = torch.tensor([row["input_ids"][:CHECKED_TOKENS]], device=model.device)
        logits = model(input_ids=token_ids, use_cache=False, **without_router(model)).logits
        # a model may rule out some tokens on purpose, by minus infinity
        is_finite = is_finite and bool(torch.isfinite(logits.logsumexp(-1)).all())
    model.train(was_training)
    return is_finite


def _refuse_unsupervised(
    stage: Stage,
    samples: Sequence[Sample],
    has_supervised: Iterable[bool],
    longest: int,
    limit: int | None,
) -> None:
    """Raise DatasetError when too many samples have no supervised token; lengths in tokens.

    A row that keeps itself out of the loss (`weight: 0`) is as it was meant to be.
    """
    if all(sample.left_out for sample in samples):
        raise DatasetError(
            f"stage '{stage.name}': every row has 'weight': 0 on its last turn, so there is "
            "nothing to train; remove the weights"
        )
    pairs = zip(samples, has_supervised, strict=True)
    unsupervised_ids = [s.id for s, supervised in pairs if not supervised and not s.left_out]
    if len(unsupervised_ids) > MAX_UNSUPERVISED * len(samples):
        raise DatasetError(
            f"stage '{stage.name}': {len(unsupervised_ids)} of {len(samples)} samples have no "
            f"token to learn from, the first is '{unsupervised_ids[0]}'; the longest sample has "
            f"{longest} tokens and training.max_length is {limit}: raise it"
        )


class _FirstStep(TrainerCallback):
    """Says behind the first step what can be seen to go wrong."""

    def __init__(self, ledger: ExposureLedger, trained: LoadedModel) -> None:
        self.ledger, self.trained = ledger, trained

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 1:
            warn_at_first_step(self.ledger, self.trained.model, self.trained, args.to_dict())


class _StageCallback(TrainerCallback):
    """Shows progress, logs metrics, and saves checkpoints inside the stage."""

    def __init__(
        self,
        stage: Stage,
        trained: LoadedModel,
        progress_bar: contextlib.ExitStack,
        log: Log,
        save_checkpoint: SaveCheckpoint,
    ) -> None:
        self.stage, self.trained, self.progress_bar = stage, trained, progress_bar
        self.log, self.save_checkpoint = log, save_checkpoint
        self.last_logged, self.last_tokens = time.perf_counter(), 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # the number of steps is known only now; whoever owns the stack closes the bar, also when
        # training fails, of which no callback is told
        bar = task(f"train {self.stage.name}", state.max_steps)
        self.advance = self.progress_bar.enter_context(bar)
        self.advance(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.advance(1)
        every = self.stage.score_every
        # the model behind the last step is the stage's own checkpoint
        if every and state.global_step % every == 0 and state.global_step < state.max_steps:
            self.save_checkpoint(self.trained, state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        # TRL also logs a summary of the whole training, which has no loss of its own
        if "loss" not in logs:
            return
        metrics = {name: float(logs[name]) for name in LOGGED if name in logs}
        now, tokens = time.perf_counter(), float(logs["num_tokens"])
        seconds = now - self.last_logged
        metrics["tokens_per_second"] = (tokens - self.last_tokens) / seconds
        self.last_logged, self.last_tokens = now, tokens
        self.log(metrics, state.global_step)
