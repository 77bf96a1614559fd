"""The batches of a stage, asked of its schedule one round at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from ilp_mlflow.core.errors import PluginError
from ilp_mlflow.core.interfaces import Batch, History, Round, SampleResult, Schedule
from ilp_mlflow.core.values import Stage
from ilp_mlflow.training.accounts.exposure_ledger import ExposureLedger
from ilp_mlflow.training.accounts.forward_passes import ROW
from ilp_mlflow.training.resume import RememberedModel, TrainingState, find_saved, load_state
from ilp_mlflow.training.schedules import SCHEDULES

if TYPE_CHECKING:
    from ilp_mlflow.training.scheduled_trainer import ScheduledTrainer

CONSTANT_RATES = ("constant", "constant_with_warmup")
"""Learning-rate plans that do not decide by themselves when there is nothing more to gain."""

Log = Callable[[dict[str, float], int], None]
"""Receives metrics by name, and the optimizer step."""


@dataclass(frozen=True)
class OpenRound:
    """A round that is being trained."""

    batches: Sequence[Batch]
    """As they were planned."""
    measured: Mapping[str, SampleResult]
    """What the schedule measured when it planned them, by sample id."""
    first_pass: int
    """Passes in the ledger when it began."""


class ScheduledBatches(Iterator[dict[str, Any]]):
    """Draws one batch after the other; where a round ends, the schedule plans the next.

    It plans from what the ledger has noted of the rounds before, and may measure the model.
    """

    def __init__(
        self, trainer: ScheduledTrainer, stage: Stage, ledger: ExposureLedger, log: Log
    ) -> None:
        self.trainer, self.stage, self.ledger, self.log = trainer, stage, ledger, log
        # one of the core's own, whose rounds are passes over the data as TRL makes them
        self.is_builtin = isinstance(stage.schedule, str)
        self.schedule = _schedule(stage)
        samples = (*stage.samples, *stage.validation)
        self.sample_ids = [sample.id for sample in samples]
        self.subsets = {sample.id: sample.stage for sample in samples}
        prepared = [*trainer.train_dataset, *(trainer.eval_dataset or ())]
        self.examples = {self.sample_ids[example[ROW]]: example for example in prepared}
        """What the trainer prepared, by sample id; without the samples that it dropped."""
        self.trainable = [sample.id for sample in stage.samples if sample.id in self.examples]
        self.rounds: list[Round] = []
        self.remembered: RememberedModel | None = None
        self._pending: list[Batch] = []
        self._open: OpenRound | None = None
        self._measured: dict[str, SampleResult] = {}
        self._seconds_before, self._started = 0.0, time.perf_counter()

    @property
    def seconds(self) -> float:
        """Wall time of the training so far, that before an interruption included."""
        return self._seconds_before + time.perf_counter() - self._started

    def __next__(self) -> dict[str, Any]:
        if not self._pending:
            self._plan_round()
        sample_ids = self._pending.pop(0)
        batch: dict[str, Any] = self.trainer.data_collator([self.examples[i] for i in sample_ids])
        return batch

    def close_round(self) -> bool:
        """Note the round whose last batch was just trained; False when it is not over."""
        if self._pending or self._open is None:
            return False
        # of a sample that was trained more than once, the last pass counts
        results: dict[str, SampleResult] = {}
        for trained in self.ledger.passes[self._open.first_pass :]:
            if trained.result is not None:
                results[self.sample_ids[trained.row]] = trained.result
        self.rounds.append(Round(self._open.batches, results, self._open.measured))
        self._open = None
        return True

    def state(self) -> TrainingState:
        """Where the training stands, to be saved between two rounds."""
        return TrainingState(
            rounds=self.rounds,
            passes=self.ledger.passes,
            trained_tokens=self.ledger.trained_tokens,
            remembered=self.remembered,
            seconds=self.seconds,
        )

    def resume(self) -> Path | None:
        """Take up a saved training; return the trainer's checkpoint to go on from, None: begin."""
        self._started = time.perf_counter()
        checkpoint = find_saved(Path(self.trainer.args.output_dir))
        if checkpoint is not None:
            state = load_state(checkpoint)
            self.rounds, self.remembered = state.rounds, state.remembered
            self.ledger.passes = state.passes
            self.ledger.trained_tokens = state.trained_tokens
            self._seconds_before = state.seconds
        return checkpoint

    def _plan_round(self) -> None:
        """Ask the schedule for the next round.

        Raises StopIteration when it stops, PluginError for a round that cannot be trained.
        """
        args = self.trainer.args
        self._measured = {}
        if self.is_builtin:
            # torch's DataLoader draws a seed for each pass over the data. Drawn here as well,
            # dropout falls as it does under TRL alone, and the weights are the same to the bit.
            torch.empty((), dtype=torch.int64).random_()
        batches = self.schedule.next_round(self._history())
        if self._measured:
            self.log(self._mean_results(), self.trainer.state.global_step)
        if batches is None:
            self._check_may_stop()
            self._restore_remembered()
            raise StopIteration
        # TRL drops the last batch of each pass this way; a schedule of one's own decides itself
        if args.dataloader_drop_last and self.is_builtin:
            batches = [batch for batch in batches if len(batch) == args.train_batch_size]
        self._check_round(batches)
        self._open = OpenRound(batches, self._measured, len(self.ledger.passes))
        self._pending = list(batches)

    def _history(self) -> History:
        args, state = self.trainer.args, self.trainer.state
        validation = [sample.id for sample in self.stage.validation if sample.id in self.examples]
        return History(
            sample_ids=self.trainable,
            subsets=self.subsets,
            batch_size=args.train_batch_size,
            seed=args.seed,
            rounds=tuple(self.rounds),
            steps_left=state.max_steps - state.global_step,
            accumulation=args.gradient_accumulation_steps,
            validation=validation,
            measure=self._measure,
            keep=self._remember,
        )

    def _check_may_stop(self) -> None:
        """Raise PluginError under a learning rate that falls to 0, which makes its own plateau."""
        rate_plan = str(self.trainer.args.lr_scheduler_type.value)
        if rate_plan not in CONSTANT_RATES:
            raise PluginError(
                f"stage '{self.stage.name}': its schedule stops the training, under "
                f"training.lr_scheduler_type {rate_plan}, which makes a plateau of its own; "
                "set it to constant"
            )

    def _check_round(self, batches: Sequence[Batch]) -> None:
        """Raise PluginError for batches that cannot be trained."""
        where = f"stage '{self.stage.name}': its schedule planned"
        batch_size = self.trainer.args.train_batch_size
        accumulation = self.trainer.args.gradient_accumulation_steps
        trainable = set(self.trainable)
        for batch in batches:
            if not 0 < len(batch) <= batch_size:
                raise PluginError(
                    f"{where} a batch of {len(batch)} samples; batches have 1 to {batch_size}"
                )
            strangers = [sample_id for sample_id in batch if sample_id not in trainable]
            if strangers:
                raise PluginError(
                    f"{where} '{strangers[0]}', which is not among the samples it can train"
                )
        # TRL ends a pass over the data with a part of a step; other rounds may not
        is_whole_steps = self.is_builtin or len(batches) % accumulation == 0
        if not batches or not is_whole_steps:
            raise PluginError(
                f"{where} {len(batches)} batches; a round is of whole steps of {accumulation}, "
                "and of one at least"
            )

    def _measure(self, ids: Sequence[str]) -> dict[str, SampleResult]:
        """How the model does now on samples; each is measured once while a round is planned."""
        # without duplicates, in the order given: an id twice in one batch would be measured twice
        known_ids = [i for i in dict.fromkeys(ids) if i in self.examples]
        new_ids = [i for i in known_ids if i not in self._measured]
        results = self.trainer.measure([self.examples[i] for i in new_ids])
        self._measured.update(zip(new_ids, results, strict=True))
        return {i: self._measured[i] for i in known_ids}

    def _remember(self) -> None:
        """Copy the trainable weights, in place of those remembered before."""
        weights = self._trainable_weights()
        copies = {name: weight.detach().cpu().clone() for name, weight in weights.items()}
        self.remembered = RememberedModel(len(self.ledger.passes), copies)

    def _restore_remembered(self) -> None:
        """End with the remembered model, if any, and strike what was trained since."""
        if self.remembered is None:
            return
        # the tokens stay counted: they were paid for
        self.ledger.passes = self.ledger.passes[: self.remembered.passes]
        for name, weight in self._trainable_weights().items():
            weight.data.copy_(self.remembered.weights[name])

    def _trainable_weights(self) -> dict[str, torch.nn.Parameter]:
        parameters = self.trainer.model.named_parameters()
        return {name: weight for name, weight in parameters if weight.requires_grad}

    def _mean_results(self) -> dict[str, float]:
        """Mean loss (nats per token) and accuracy (0..1) of what was just measured, by subset."""
        results_by_subset: dict[str, list[SampleResult]] = {}
        for sample_id, result in self._measured.items():
            results_by_subset.setdefault(self.subsets[sample_id], []).append(result)
        metrics = {}
        for subset, results in results_by_subset.items():
            losses = [result.loss for result in results]
            accuracies = [result.token_accuracy for result in results]
            metrics[f"loss_of_{subset}"] = sum(losses) / len(losses)
            metrics[f"accuracy_of_{subset}"] = sum(accuracies) / len(accuracies)
        return metrics


def _schedule(stage: Stage) -> Schedule:
    """The stage's schedule: one of the core's by its name, or the stage's own."""
    if isinstance(stage.schedule, str):
        return SCHEDULES[stage.schedule]
    # any value with the method will do, of whatever class
    return cast(Schedule, stage.schedule)
