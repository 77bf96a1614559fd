"""What a training did with every sample, noted batch by batch as the model sees it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from transformers import TrainerCallback

from ilp_mlflow.core.interfaces import SampleResult
from ilp_mlflow.core.values import Exposure, Sample, Signal, schema
from ilp_mlflow.training.accounts.batch_form import BatchForm, is_padded_in_front
from ilp_mlflow.training.accounts.forward_passes import (
    ROW,
    ForwardPass,
    Row,
    forms_without_padding,
    read_pass,
    read_results,
)
from ilp_mlflow.training.accounts.prepared_rows import PreparedRow, row_key

NOTED_BATCHES = 0.5
"""Share 0..1 of the batches that must have been seen for the others not to have been trained: a
trainer may skip a bad batch, and does not skip most of them."""
OTHER_ROWS = (
    "the model is trained on rows that are not in the data set; does a data_collator, or a loss of "
    "the trainer's own, change rows?"
)
NO_PASS = "no training pass of the model was seen; does the trainer run another model than its own?"


class Pass(NamedTuple):
    """One sample in one training batch."""

    row: int
    """Position of the sample in its stage."""
    step: int
    """Optimizer step that the batch is part of, from 1."""
    result: SampleResult | None
    """How the model did on it before that step: nan where no token of the row counts, None where
    that could not be read."""


class ExposureLedger:
    """Which samples were in each batch of a stage, and how the model did on them.

    This is the one seam between a trainer and what is known of its samples, for our own trainer as
    for someone else's: `note_batch` is called once for each batch that is trained, in order, with
    the model's forward passes over it. Counts need nothing but the token ids that these are given;
    how the model did is read from what TRL's fused head says, or from logits, where there are some.

    A row is known by its position in the stage, where the trainer carries that along, else by its
    tokens. Samples that have become equal, or were cut until they were, cannot be told apart by
    tokens: they take turns. Our own trainer carries the position, since a schedule decides by
    sample which of two equal ones is trained.

    A ledger that could not read what was trained is `unread`, and its counts are not to be used.

    It leaves the training alone: no random number is drawn, no tensor changed or kept.
    """

    def __init__(
        self,
        stage: str,
        samples: Sequence[Sample],
        prepared: Sequence[PreparedRow],
        prepare_again: Callable[[int, Sequence[int]], PreparedRow] | None = None,
    ):
        """`prepare_again` gives a row by its position with other labels than it was prepared with.

        Left out, rows with other labels are none of the data set's.
        """
        self.stage, self.samples, self.prepared = stage, samples, list(prepared)
        self.passes: list[Pass] = []
        self.trained_tokens = 0
        """Tokens passed through the model, padding left out."""
        self.batches = 0
        """Batches that were trained."""
        self.noted_batches = 0
        """Of these, those of which a sample is known."""
        self.relabelled: set[int] = set()
        """Positions of rows that were trained with other labels than they were prepared with."""
        self.form = BatchForm()
        """In what form batches come."""
        self._prepare_again = prepare_again
        self._has_other_rows = False
        self._rows_by_ids: dict[bytes, deque[int]] = {}
        for row, prepared_row in enumerate(prepared):
            if prepared_row.key:
                ids_key = prepared_row.key[: len(prepared_row.key) // 2]
                self._rows_by_ids.setdefault(ids_key, deque()).append(row)

    @property
    def unread(self) -> str:
        """Why counts are not known; "" where they are."""
        if self._has_other_rows:
            return OTHER_ROWS
        if self.noted_batches < NOTED_BATCHES * self.batches:
            return NO_PASS
        return ""

    @property
    def has_results(self) -> bool:
        """Whether it is known of every pass how the model did."""
        return all(trained.result is not None for trained in self.passes)

    def follow(self, model: torch.nn.Module, current_step: Callable[[], int]) -> BatchListener:
        """Note every batch that `model` is trained on, until the listener is stopped.

        `current_step` says which optimizer step is being trained, from 1.
        """
        return BatchListener(self, model, current_step)

    def note_batch(self, step: int, forward_passes: Sequence[ForwardPass]) -> None:
        """Note one batch from the passes with gradients, and those without, that were made over it.

        A row that is in several passes was trained once: label smoothing, or a loss of one's own,
        runs the model more than once over a batch. Where one pass is over rows of the data set, one
        over other rows does not count.
        """
        self.batches += 1
        forward_passes = [self._without_padding(made) for made in forward_passes]
        with_gradients = [made for made in forward_passes if made.with_gradients]
        known = [made for made in with_gradients if all(map(self._is_known, made.rows))]
        if with_gradients and not known:
            self._has_other_rows = True
        if not known:
            return
        self.noted_batches += 1
        others = [made for made in forward_passes if not made.with_gradients]
        for row in _merged(known, others):
            self.form.rows += 1
            if row.labels is not None:
                self.form.note_labels(row.ids, row.labels)
            self._note_row(step, row)

    def holds(self, ids: Sequence[int]) -> bool:
        """Whether a row has the tokens of one of the data set."""
        return np.asarray(ids, np.int64).tobytes() in self._rows_by_ids

    def strike_after(self, step: int) -> None:
        """Take back what was noted of steps behind `step`: it is not in the model that was kept.

        The tokens stay counted: they were paid for.
        """
        self.passes = [trained for trained in self.passes if trained.step <= step]

    def _note_row(self, step: int, row: Row) -> None:
        number = row.number
        if number is None:
            number = self._find_row(row)
        prepared = self.prepared[number]
        labels = prepared.labels if row.labels is None else row.labels
        result = None
        if row.results is not None and labels is not None:
            result = read_results(row, labels, prepared.first_counted)
        self.passes.append(Pass(number, step, result))
        self.trained_tokens += len(row.ids)

    def _without_padding(self, made: ForwardPass) -> ForwardPass:
        """A pass with its rows as the data set has them, where nothing says what is padding."""
        rows = []
        for row in made.rows:
            forms = [row]
            if row.number is None and row.ids_key not in self._rows_by_ids:
                forms += forms_without_padding(row)
            known = [form for form in forms if form.ids_key in self._rows_by_ids]
            found = known[0] if known else row
            if made.with_gradients and is_padded_in_front(row.ids, found.ids):
                self.form.attended += 1
            rows.append(found)
        return made._replace(rows=rows)

    def _is_known(self, row: Row) -> bool:
        if row.number is not None:
            return True
        rows = self._rows_by_ids.get(row.ids_key)
        if rows is None or row.labels is None or self._prepare_again is not None:
            return rows is not None
        key = row_key(row.ids, row.labels)
        return any(self.prepared[number].key == key for number in rows)

    def _find_row(self, row: Row) -> int:
        """The position of a row, by its tokens; one with other labels is prepared again."""
        equal_rows = self._rows_by_ids[row.ids_key]
        number = equal_rows[0]
        if row.labels is not None:
            key = row_key(row.ids, row.labels)
            with_labels = [n for n in equal_rows if self.prepared[n].key == key]
            if with_labels:
                number = with_labels[0]
            elif self._prepare_again is not None:
                self.prepared[number] = self._prepare_again(number, row.labels.tolist())
                self.relabelled.add(number)
        # nobody can tell which of the equal rows this was, so they take turns
        equal_rows.remove(number)
        equal_rows.append(number)
        return number

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
                    end_supervised=prepared.account.end_supervised,
                )
            )
        return exposures

    def signals(self) -> pa.Table:
        """Columns of `Signal`, in the order of training; without rows of which no token counts.

        Of a training of which not all results are known, see `has_results`, they are a part.
        """
        rows = []
        for trained in self.passes:
            has_answer = self.prepared[trained.row].account.supervised_answer_tokens > 0
            if has_answer and trained.result is not None:
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


class BatchListener:
    """Hands a ledger each batch that a model is trained on, from the model's own forward passes.

    A forward hook sees what the seam needs in any trainer that calls the model, and no method of
    the trainer is overridden for it. Where one batch ends, `end_batch` has to be called: the
    trainer's callbacks are told of it.
    """

    def __init__(
        self, ledger: ExposureLedger, model: torch.nn.Module, current_step: Callable[[], int]
    ) -> None:
        self._ledger, self._current_step = ledger, current_step
        self._numbers: list[int] | None = None
        self._made: list[ForwardPass] = []
        self._hooks = (
            model.register_forward_pre_hook(self._take_row_numbers, with_kwargs=True),
            model.register_forward_hook(self._note_pass, with_kwargs=True),
        )

    def end_batch(self) -> None:
        """Note the batch that the passes since the last call were over."""
        self._ledger.note_batch(self._current_step(), self._made)
        self._made = []

    def stop(self) -> None:
        """Note no more batches."""
        for hook in self._hooks:
            hook.remove()

    def _take_row_numbers(self, model: Any, args: Any, inputs: dict[str, Any]) -> Any:
        """Take the row numbers that a batch carries out of its inputs: no model takes them."""
        numbers = inputs.pop(ROW, None)
        self._numbers = None if numbers is None else numbers.tolist()
        return args, inputs

    def _note_pass(self, model: Any, args: Any, inputs: dict[str, Any], outputs: Any) -> None:
        # an evaluation is no training
        if model.training:
            self._made.append(read_pass(args, inputs, outputs, self._numbers))


class EndOfBatch(TrainerCallback):
    """Tells a listener where one batch ends and the next begins."""

    def __init__(self, listener: BatchListener) -> None:
        self.listener = listener

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A batch of a step that has more of them."""
        self.listener.end_batch()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The last batch of a step."""
        self.listener.end_batch()


def _merged(with_gradients: Sequence[ForwardPass], others: Sequence[ForwardPass]) -> list[Row]:
    """The rows of a batch, each once, from all passes over it.

    What one pass does not say of a row, labels or results, is taken from another one. Rows with
    the same tokens are as many as in the pass that has most of them.
    """
    rows: dict[tuple[bytes | int, int], Row] = {}
    for made in (*with_gradients, *others):
        occurrences = Counter[bytes | int]()
        for row in made.rows:
            place = (row.place, occurrences[row.place])
            occurrences[row.place] += 1
            if place in rows:
                rows[place] = rows[place].completed_by(row)
            elif made.with_gradients:
                rows[place] = row
    return list(rows.values())
