"""Training in rounds: batches come from a schedule, which sees what became of the samples before it plans the next round."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import TrainerCallback
from trl import SFTTrainer

from ilp_mlflow.core.errors import PluginError
from ilp_mlflow.core.interfaces import Batch, History, Round, SampleResult, Schedule
from ilp_mlflow.core.values import Sample, Stage
from ilp_mlflow.training.schedules import SCHEDULES

KEPT_EVERY = 60.0
"""Seconds from one time that a training is kept, so that it can go on from there, to the next, at least."""
KEPT = "rounds.pt"
STATE = ("done", "signals", "passed_tokens", "kept")
CONSTANT = ("constant", "constant_with_warmup")
"""Learning-rate plans that do not decide by themselves when there is nothing more to gain."""

Log = Callable[[dict[str, float], int], None]
Signals = list[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]]


def trainer_rows(samples: Sequence[Sample], first: int) -> datasets.Dataset:
    """Samples numbered from `first`, as RoundTrainer reads them: a text is a turn of nobody's."""
    records = [
        {
            name: [{"role": None, "content": v}]
            if isinstance(v, str)
            else [m.model_dump() for m in v]
            for name, v in (("prompt", s.prompt), ("completion", s.completion))
        }
        | {"row": row}
        for row, s in enumerate(samples, first)
    ]
    return datasets.Dataset.from_list(records)


class ScheduledTrainer(SFTTrainer):
    """SFTTrainer whose batches come from a schedule, and whose own forward pass is read off by sample."""

    data_collator: Any

    def follow(self, stage: Stage, log: Log = lambda metrics, step: None) -> ScheduledBatches:
        """Take the batches from the stage's schedule; row i of the data sets is sample i, those of the validation set last."""
        self.rounds = ScheduledBatches(self, stage, log)
        self.outputs: Any = None
        self.model.register_forward_hook(self._keep_outputs)
        self.data_collator = _carry_row(self.data_collator)
        return self.rounds

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """The batches of one step; asked for when the step before is done, so no batch is planned ahead of its results."""
        batches = super().get_batch_samples(self.rounds, num_batches, device)
        self.control.should_training_stop |= not batches[0]
        return batches

    def set_initial_training_values(self, *args: Any, **kwargs: Any) -> Any:
        """What TRL counts in passes over the data; with a schedule of one's own, rounds have any length and all is one pass."""
        epochs, updates, examples, samples, total, batches, steps = (
            super().set_initial_training_values(*args, **kwargs)
        )
        if not self.rounds.named:
            epochs, updates, batches = 1, steps, steps * self.args.gradient_accumulation_steps
        return epochs, updates, examples, samples, total, batches, steps

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """TRL's loss; what its fused head returned for it is kept by sample."""
        rows = inputs.pop("row")
        total = super().compute_loss(model, inputs, *args, **kwargs)
        # (batch, length - 1), zero where there is no label
        count = self.outputs.label_mask.sum(1)
        loss = -self.outputs.log_probs.detach().sum(1) / count
        self.rounds.saw(
            self.state.global_step + 1,
            rows,
            loss,
            self.outputs.is_top1.sum(1) / count,
            inputs,
            model.training,
        )
        self.outputs = None
        return total

    def _prepare_dataset(
        self, dataset: datasets.Dataset, *args: Any, **kwargs: Any
    ) -> datasets.Dataset:
        """Token ids and labels of `rows`; TRL takes all for what the first is, so text and messages are prepared apart."""
        texts = [row for row, turns in enumerate(dataset["completion"]) if turns[0]["role"] is None]
        chats = sorted({*range(len(dataset))} - {*texts})
        plain = dataset.select(texts).to_list()
        text = [
            {**row, **{name: row[name][0]["content"] for name in ("prompt", "completion")}}
            for row in plain
        ]
        parts = [datasets.Dataset.from_list(text)] if text else []
        parts += [dataset.select(chats)] if chats else []
        prepared = [
            super(ScheduledTrainer, self)._prepare_dataset(part, *args, **kwargs) for part in parts
        ]
        return datasets.concatenate_datasets(
            [part.select_columns(["input_ids", "labels", "row"]) for part in prepared]
        )

    def measure(self, rows: Sequence[Any]) -> None:
        """One pass over prepared rows without learning from them."""
        training = self.model.training
        self.model.eval()
        size = 4 * self.args.train_batch_size
        for start in range(0, len(rows), size):
            inputs = self._prepare_inputs(self.data_collator(rows[start : start + size]))
            with torch.no_grad(), self.compute_loss_context_manager():
                self.compute_loss(self.model_wrapped, inputs)
        self._metrics["eval"].clear()
        self.model.train(training)

    def _keep_outputs(self, module: Any, args: Any, outputs: Any) -> None:
        self.outputs = outputs

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if "row" not in self._signature_columns:
            self._signature_columns.append("row")


class ScheduledBatches(Iterator[dict[str, Any]]):
    """The batches of a stage, planned round by round, and the ledger of what was trained."""

    def __init__(self, trainer: ScheduledTrainer, stage: Stage, log: Log) -> None:
        self.trainer, self.stage, self.log = trainer, stage, log
        self.named = isinstance(stage.schedule, str)
        self.schedule: Schedule = (
            SCHEDULES[stage.schedule] if isinstance(stage.schedule, str) else stage.schedule
        )  # type: ignore[assignment]
        samples = (*stage.samples, *stage.validation)
        self.ids = [s.id for s in samples]
        self.subsets = {s.id: s.stage for s in samples}
        prepared = [*trainer.train_dataset, *(trainer.eval_dataset or ())]
        self.examples = {self.ids[example["row"]]: example for example in prepared}
        self.trainable = [i for i in self.ids[: len(stage.samples)] if i in self.examples]
        self.signals: Signals = []
        self.passed_tokens = 0
        self.done: list[Round] = []
        self.kept: tuple[int, dict[str, torch.Tensor]] | None = None
        """Batches trained before the moment that the schedule wanted to be kept, and the weights then."""
        self.seconds, self.started = 0.0, time.monotonic()
        self.pending: list[Batch] = []
        self._open: tuple[Sequence[Batch], dict[str, SampleResult], int] | None = None
        self._measured: dict[str, SampleResult] = {}

    def __next__(self) -> dict[str, Any]:
        if not self.pending:
            self._plan()
        batch: dict[str, Any] = self.trainer.data_collator(
            [self.examples[i] for i in self.pending.pop(0)]
        )
        return batch

    def saw(
        self,
        step: int,
        rows: torch.Tensor,
        loss: torch.Tensor,
        accuracy: torch.Tensor,
        inputs: Any,
        trained: bool,
    ) -> None:
        """Note how the samples of a batch did, before the step that it is part of or, not `trained`, when measured."""
        if trained:
            self.signals.append((step, rows, loss, accuracy))
            self.passed_tokens += int(inputs["attention_mask"].sum())
        else:
            self._measured |= self._by_id(rows, loss, accuracy)

    def close(self) -> bool:
        """Note the round whose last batch was just trained; False when it is not over."""
        if self.pending or self._open is None:
            return False
        batches, measured, first = self._open
        results: dict[str, SampleResult] = {}
        for _, rows, loss, accuracy in self.signals[first:]:
            results |= self._by_id(rows, loss, accuracy)
        self.done.append(Round(batches, results, measured))
        self._open = None
        return True

    def keep(self, folder: Path) -> None:
        """Write down where the training stands, beside the trainer's own checkpoint, once that is there."""
        state = {name: getattr(self, name) for name in STATE} | {
            "seconds": self.seconds + time.monotonic() - self.started
        }
        torch.save(state, folder / f"{KEPT}.part")
        os.replace(folder / f"{KEPT}.part", folder / KEPT)

    def resume(self) -> str | None:
        """The trainer's checkpoint to go on from, everything before it noted as done; None to begin."""
        found = Path(self.trainer.args.output_dir).glob(f"checkpoint-*/{KEPT}")
        kept = max(found, key=lambda path: int(path.parent.name.partition("-")[2]), default=None)
        if kept is None:
            return None
        for name, value in torch.load(kept, weights_only=False).items():
            setattr(self, name, value)
        return str(kept.parent)

    def _plan(self) -> None:
        """Ask the schedule for the next round. Raises StopIteration when it stops, PluginError for one that cannot be trained."""
        args, state = self.trainer.args, self.trainer.state
        self._measured = {}
        if self.named:
            # as torch's DataLoader draws a seed for each pass: dropout then falls as it does under TRL alone
            torch.empty((), dtype=torch.int64).random_()
        history = History(
            sample_ids=self.trainable,
            subsets=self.subsets,
            batch_size=args.train_batch_size,
            seed=args.seed,
            rounds=tuple(self.done),
            steps_left=state.max_steps - state.global_step,
            accumulation=args.gradient_accumulation_steps,
            validation=[s.id for s in self.stage.validation if s.id in self.examples],
            measure=self._measure,
            keep=self._keep,
        )
        batches = self.schedule.next_round(history)
        if self._measured:
            self.log(self._looks(), state.global_step)
        if batches is None:
            if str(args.lr_scheduler_type.value) not in CONSTANT:
                raise PluginError(
                    f"stage '{self.stage.name}': its schedule stops the training, under training.lr_scheduler_type "
                    f"{args.lr_scheduler_type.value}, which makes a plateau of its own; set it to constant"
                )
            self._go_back()
            raise StopIteration
        if args.dataloader_drop_last and self.named:
            batches = [b for b in batches if len(b) == args.train_batch_size]
        self._check(batches, args.train_batch_size, args.gradient_accumulation_steps)
        self._open = batches, self._measured, len(self.signals)
        self.pending = list(batches)

    def _check(self, batches: Sequence[Batch], size: int, accumulation: int) -> None:
        where = f"stage '{self.stage.name}': its schedule planned"
        known = set(self.trainable)
        for batch in batches:
            if not 0 < len(batch) <= size:
                raise PluginError(
                    f"{where} a batch of {len(batch)} samples; batches have 1 to {size}"
                )
            strangers = [i for i in batch if i not in known]
            if strangers:
                raise PluginError(
                    f"{where} '{strangers[0]}', which is not among the samples it can train"
                )
        if not batches or not (self.named or len(batches) % accumulation == 0):
            raise PluginError(
                f"{where} {len(batches)} batches; a round is of whole steps of {accumulation}, and of one at least"
            )

    def _measure(self, ids: Sequence[str]) -> dict[str, SampleResult]:
        wanted = [i for i in dict.fromkeys(ids) if i in self.examples and i not in self._measured]
        self.trainer.measure([self.examples[i] for i in wanted])
        return {i: self._measured[i] for i in ids if i in self._measured}

    def _keep(self) -> None:
        self.kept = (
            len(self.signals),
            {name: p.detach().cpu().clone() for name, p in self._weights().items()},
        )

    def _go_back(self) -> None:
        """Take the weights that were kept, and strike what was trained since off the ledger."""
        if self.kept is None:
            return
        trained, weights = self.kept
        self.signals = self.signals[:trained]
        for name, parameter in self._weights().items():
            parameter.data.copy_(weights[name])

    def _weights(self) -> dict[str, torch.nn.Parameter]:
        return {name: p for name, p in self.trainer.model.named_parameters() if p.requires_grad}

    def _looks(self) -> dict[str, float]:
        """What the schedule has just seen of each subset, in the mean: token accuracy 0..1 and loss, nats per token."""
        seen: dict[str, list[SampleResult]] = {}
        for id_, result in self._measured.items():
            seen.setdefault(self.subsets[id_], []).append(result)
        means = {
            name: [sum(values) / len(values) for values in zip(*results, strict=True)]
            for name, results in seen.items()
        }
        return {
            f"{kind}_of_{name}": x
            for name, mean in means.items()
            for kind, x in zip(("loss", "accuracy"), mean, strict=True)
        }

    def _by_id(
        self, rows: torch.Tensor, loss: torch.Tensor, accuracy: torch.Tensor
    ) -> dict[str, SampleResult]:
        found = zip(rows.tolist(), loss.tolist(), accuracy.tolist(), strict=True)
        return {self.ids[row]: SampleResult(nats, share) for row, nats, share in found}


class SaveRounds(TrainerCallback):
    """Has the trainer keep its state behind a round, but not more often than every KEPT_EVERY seconds."""

    def __init__(self, rounds: ScheduledBatches) -> None:
        self.rounds, self.last = rounds, time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the round that this step ends."""
        if (
            self.rounds.close()
            and state.global_step < state.max_steps
            and time.monotonic() - self.last >= KEPT_EVERY
        ):
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Add the ledger to what the trainer has just kept."""
        self.rounds.keep(Path(args.output_dir) / f"checkpoint-{state.global_step}")
        self.last = time.monotonic()


def _carry_row(
    collate: Callable[[list[dict[str, Any]]], dict[str, Any]],
) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    def collated(examples: list[dict[str, Any]]) -> dict[str, Any]:
        return {**collate(examples), "row": torch.tensor([example["row"] for example in examples])}

    return collated
