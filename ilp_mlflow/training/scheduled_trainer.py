"""TRL's SFTTrainer with its batches from a schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import datasets
import torch
from trl import SFTTrainer

from ilp_mlflow.core.interfaces import SampleResult
from ilp_mlflow.core.values import Sample, Stage
from ilp_mlflow.training.accounts.exposure_ledger import ExposureLedger
from ilp_mlflow.training.accounts.forward_passes import ROW, read_pass, read_results
from ilp_mlflow.training.scheduled_batches import Log, ScheduledBatches

FEATURES = datasets.Features(
    {
        # as JSON: as columns of structs, rows with other tools or other calls would be given each
        # other's keys, with None in them
        **dict.fromkeys(("prompt", "completion", "tools", "chat_template_kwargs"), datasets.Json()),
        ROW: datasets.Value("int64"),
    }
)
"""Columns of the rows that a trainer prepares."""
Collator = Callable[[list[dict[str, Any]]], dict[str, Any]]


def trainer_rows(samples: Sequence[Sample], first: int) -> datasets.Dataset:
    """Samples as ScheduledTrainer reads them, numbered from `first`.

    Text is the one part of a list: a column of JSON takes bare text for JSON, `1867` for a number.
    """
    records = []
    for row, sample in enumerate(samples, first):
        record = trainer_row(sample)
        if isinstance(sample.prompt, str):
            record["prompt"], record["completion"] = [record["prompt"]], [record["completion"]]
        records.append({**record, ROW: row})
    return datasets.Dataset.from_list(records, features=FEATURES)


def trainer_row(sample: Sample) -> dict[str, Any]:
    """A sample in TRL's form: prompt and completion, and what its chat template is given."""
    if isinstance(sample.prompt, str):
        row: dict[str, Any] = {"prompt": sample.prompt, "completion": sample.completion}
        return {**row, "tools": None, "chat_template_kwargs": {}}
    assert not isinstance(sample.completion, str)
    return {
        "prompt": sample.prompt.as_dicts(),
        "completion": sample.completion.as_dicts(),
        "tools": list(sample.prompt.tools) or None,
        "chat_template_kwargs": sample.prompt.template_kwargs,
    }


class ScheduledTrainer(SFTTrainer):
    """SFTTrainer whose batches come from a schedule; loop, loss and optimizer are TRL's own.

    `use_schedule` has to be called before `train`.
    """

    data_collator: Collator
    batches: ScheduledBatches

    def use_schedule(self, stage: Stage, ledger: ExposureLedger, log: Log) -> ScheduledBatches:
        """Take the batches from the stage's schedule, which sees what `ledger` has noted.

        Row i of the training set is sample i of the stage; validation samples are numbered behind.
        `log` receives what the schedule measures.
        """
        self.batches = ScheduledBatches(self, stage, ledger, log)
        self.data_collator = _carry_row_numbers(self.data_collator)
        return self.batches

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """The batches of one optimizer step, from the schedule in place of the data loader.

        TRL asks for them when the step before is done, so no batch is planned ahead of its results.
        """
        batches = super().get_batch_samples(self.batches, num_batches, device)
        # no batch at all: the schedule has stopped
        self.control.should_training_stop |= not batches[0]
        return batches

    def set_initial_training_values(self, *args: Any, **kwargs: Any) -> Any:
        """What TRL counts in passes over the data.

        Rounds of a schedule of one's own have any length: TRL then sees them all as one pass.
        """
        epochs, updates, examples, samples, total, batches, steps = (
            super().set_initial_training_values(*args, **kwargs)
        )
        if not self.batches.is_builtin:
            epochs, updates, batches = 1, steps, steps * self.args.gradient_accumulation_steps
        return epochs, updates, examples, samples, total, batches, steps

    def measure(self, examples: Sequence[dict[str, Any]]) -> list[SampleResult]:
        """How the model does now on prepared rows; a forward pass only, nothing is learned."""
        was_training = self.model.training
        self.model.eval()
        # without gradients there is room for more rows than in a training batch
        size = 4 * self.args.train_batch_size
        results = []
        for start in range(0, len(examples), size):
            rows = list(examples[start : start + size])
            inputs = self._prepare_inputs(self.data_collator(rows))
            del inputs[ROW]
            with torch.no_grad(), self.compute_loss_context_manager():
                outputs = self.model_wrapped(**inputs, fused_lm_head=True)
            for row in read_pass((), inputs, outputs).rows:
                assert row.labels is not None
                results.append(read_results(row, row.labels))
        self.model.train(was_training)
        return results

    # A private method, overridden since TRL takes a whole data set for what its first row is, text
    # or messages, and offers no other place where rows can be prepared apart.
    def _prepare_dataset(
        self, dataset: datasets.Dataset, *args: Any, **kwargs: Any
    ) -> datasets.Dataset:
        """Token ids and labels of `trainer_rows`, with their numbers; text first, then messages."""
        is_text = [isinstance(parts[0], str) for parts in dataset["completion"]]
        texts = dataset.select([row for row, text in enumerate(is_text) if text])
        chats = dataset.select([row for row, text in enumerate(is_text) if not text])
        parts = []
        for part in (_unwrap_text(texts), chats):
            if len(part):
                prepared = super()._prepare_dataset(part, *args, **kwargs)
                parts.append(prepared.select_columns(["input_ids", "labels", ROW]))
        return datasets.concatenate_datasets(parts)


def _unwrap_text(dataset: datasets.Dataset) -> datasets.Dataset:
    """Rows of text as TRL wants them: in columns of text."""
    records = []
    for row in dataset:
        (prompt,), (completion,) = row["prompt"], row["completion"]
        records.append({"prompt": prompt, "completion": completion, ROW: row[ROW]})
    return datasets.Dataset.from_list(records)


def _carry_row_numbers(collate: Collator) -> Collator:
    """A collator that adds the number of each row to the batch: `row`, (batch,)."""

    def collate_with_numbers(examples: list[dict[str, Any]]) -> dict[str, Any]:
        numbers = torch.tensor([example[ROW] for example in examples])
        return {**collate(examples), ROW: numbers}

    return collate_with_numbers
