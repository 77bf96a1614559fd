"""What a training did with every sample, noted batch by batch as the model sees it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from trl.trainer.utils import FusedCausalLMOutput

from ilp_mlflow.core.errors import ConfigError
from ilp_mlflow.core.interfaces import SampleResult
from ilp_mlflow.core.values import Exposure, Sample, Signal, schema
from ilp_mlflow.training.accounts.prepared_rows import PreparedRow, row_key

ROW = "row"
"""Name under which our own trainer carries the row numbers of a batch along with its tokens."""


class Pass(NamedTuple):
    """One sample in one training batch."""

    row: int
    """Position of the sample in its stage."""
    step: int
    """Optimizer step that the batch is part of, from 1."""
    result: SampleResult
    """How the model did on it before that step; nan where no token of the row counts."""


class ExposureLedger:
    """Which samples were in each batch of a stage, and how the model did on them.

    This is the one seam between a trainer and what is known of its samples, for our own trainer as
    for someone else's: `note_batch` is called once for each batch that is trained, in order. It
    needs nothing of the trainer but

    - the optimizer step that the batch is part of, from 1;
    - `inputs`, what the model is given: `input_ids`, `labels` (-100: not supervised) and
      `attention_mask`, each (batch, length);
    - `outputs`, what TRL's fused head says of every token but the first: `label_mask` (whether it
      is supervised), `log_probs` (nats) and `is_top1`, each (batch, length - 1);
    - for each row which sample it is: its position in the stage, where the trainer carries that
      along, else its tokens. Samples that have become equal, or were cut until they were, cannot
      be told apart by tokens: they take turns. Our own trainer carries the position, since a
      schedule decides by sample which of two equal ones is trained.

    It leaves the training alone: no random number is drawn, no tensor changed or kept.
    """

    def __init__(self, stage: str, samples: Sequence[Sample], prepared: Sequence[PreparedRow]):
        self.stage, self.samples, self.prepared = stage, samples, prepared
        self.passes: list[Pass] = []
        self.trained_tokens = 0
        """Tokens passed through the model, padding left out."""
        self._rows_by_key: dict[bytes, deque[int]] = {}
        for row, prepared_row in enumerate(prepared):
            self._rows_by_key.setdefault(prepared_row.key, deque()).append(row)

    def follow(self, model: torch.nn.Module, current_step: Callable[[], int]) -> BatchListener:
        """Note every batch that `model` is trained on, until the listener is stopped.

        `current_step` says which optimizer step is being trained, from 1.
        """
        return BatchListener(self, model, current_step)

    def note_batch(
        self,
        step: int,
        inputs: Mapping[str, torch.Tensor],
        outputs: FusedCausalLMOutput,
        rows: Sequence[int] | None = None,
    ) -> None:
        """Note one batch; `rows` are the positions of its samples, None: to be known by tokens.

        Raises ConfigError when a row has the tokens of no sample.
        """
        if rows is None:
            rows = self._find_rows(step, inputs)
        first_counted = [self.prepared[row].first_counted for row in rows]
        results = read_results(inputs, outputs, first_counted)
        for row, result in zip(rows, results, strict=True):
            self.passes.append(Pass(row, step, result))
        self.trained_tokens += int(inputs["attention_mask"].sum())

    def exposures(self) -> list[Exposure]:
        """One per sample, those that the trainer dropped included."""
        passes_by_row = Counter(trained.row for trained in self.passes)
        exposures = []
        for row, (sample, prepared) in enumerate(zip(self.samples, self.prepared, strict=True)):
            exposures.append(
                Exposure(
                    sample_id=sample.id,
                    # a mitigation may train samples that another stage brought first
                    stage=self.stage,
                    exposures=passes_by_row[row],
                    supervised_tokens=prepared.account.supervised_answer_tokens,
                    truncated_tokens=prepared.account.cut_tokens,
                )
            )
        return exposures

    def signals(self) -> pa.Table:
        """Columns of `Signal`, in the order of training; without rows of which no token counts."""
        rows = []
        for trained in self.passes:
            if self.prepared[trained.row].account.supervised_answer_tokens > 0:
                rows.append(
                    {
                        "sample_id": self.samples[trained.row].id,
                        "stage": self.stage,
                        "step": trained.step,
                        "loss": trained.result.loss,
                        "token_accuracy": trained.result.token_accuracy,
                    }
                )
        return pa.Table.from_pylist(rows, schema=schema(Signal))

    def _find_rows(self, step: int, inputs: Mapping[str, torch.Tensor]) -> list[int]:
        """The position of each sample of a batch, by its tokens."""
        batch_ids, batch_labels = inputs["input_ids"].cpu().numpy(), inputs["labels"].cpu().numpy()
        batch_masks = inputs["attention_mask"].bool().cpu().numpy()
        rows = []
        for ids, labels, mask in zip(batch_ids, batch_labels, batch_masks, strict=True):
            equal_rows = self._rows_by_key.get(row_key(ids[mask], labels[mask]))
            if equal_rows is None:
                raise ConfigError(
                    f"IlpCallback: step {step} trains a row that is not in the data set; "
                    "does a data_collator change rows?"
                )
            rows.append(equal_rows[0])
            # nobody can tell which of the equal rows this was, so they take turns
            equal_rows.rotate(-1)
        return rows


class BatchListener:
    """Hands a ledger each batch that a model is trained on, from the model's own forward pass.

    A forward hook sees what the seam needs in any trainer built on TRL's fused head, and no method
    of the trainer is overridden for it.
    """

    def __init__(
        self, ledger: ExposureLedger, model: torch.nn.Module, current_step: Callable[[], int]
    ) -> None:
        self._ledger, self._current_step = ledger, current_step
        self._rows: list[int] | None = None
        self._hooks = (
            model.register_forward_pre_hook(self._take_row_numbers, with_kwargs=True),
            model.register_forward_hook(self._note_batch, with_kwargs=True),
        )

    def stop(self) -> None:
        """Note no more batches."""
        for hook in self._hooks:
            hook.remove()

    def _take_row_numbers(self, model: Any, args: Any, inputs: dict[str, Any]) -> Any:
        """Take the row numbers that a batch carries out of its inputs: no model takes them."""
        numbers = inputs.pop(ROW, None)
        self._rows = None if numbers is None else numbers.tolist()
        return args, inputs

    def _note_batch(self, model: Any, args: Any, inputs: dict[str, Any], outputs: Any) -> None:
        # An evaluation is no training, and a pass with full logits (label smoothing makes one) is
        # followed by one through TRL's head on the same batch.
        if model.training and isinstance(outputs, FusedCausalLMOutput):
            self._ledger.note_batch(self._current_step(), inputs, outputs, self._rows)


def read_results(
    inputs: Mapping[str, torch.Tensor], outputs: FusedCausalLMOutput, first_counted: Sequence[int]
) -> list[SampleResult]:
    """How a model does on each row of a batch; `inputs` and `outputs` as `note_batch` takes them.

    Loss is the mean of -log p over the row's supervised tokens from position `first_counted` on,
    nats per token, accuracy the share 0..1 of them that are the model's first choice.
    """
    supervised = outputs.label_mask
    # how many tokens of its row there are up to each token, itself included; padding is none
    counts = inputs["attention_mask"].to(supervised.device).bool().cumsum(1)
    starts = torch.tensor(first_counted, device=supervised.device)
    # the head says nothing of the first token, so its outputs are one shorter: (batch, length - 1)
    counted = supervised & (counts[:, 1:] > starts[:, None])
    tokens = counted.sum(1)
    losses = -(outputs.log_probs.detach() * counted).sum(1) / tokens
    accuracies = (outputs.is_top1 * counted).sum(1) / tokens
    pairs = zip(losses.tolist(), accuracies.tolist(), strict=True)
    return [SampleResult(loss, accuracy) for loss, accuracy in pairs]
