"""What one forward pass in training says of its rows, whichever trainer calls the model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import numpy.typing as npt
import torch
from trl.trainer.utils import FusedCausalLMOutput

from ilp_mlflow.core.interfaces import SampleResult
from ilp_mlflow.training.accounts.row_account import IGNORED

ROW = "row"
"""Name under which our own trainer carries the row numbers of a batch along with its tokens."""
POSITIONS_AT_ONCE = 256
"""Positions of a row whose logits are normalised at a time."""

Integers = npt.NDArray[np.int64]


class TokenResults(NamedTuple):
    """How a model does on every token of a row but the first, padding left out."""

    log_probs: npt.NDArray[np.float32]
    """(tokens - 1,): nats; 0 without a label where the head computes labelled tokens alone."""
    is_top1: npt.NDArray[np.bool_]
    """(tokens - 1,): whether the token is the model's first choice."""


@dataclass(frozen=True)
class Row:
    """One row of a batch, as the model is given it."""

    ids: Integers
    """Token ids, without padding where the pass says what is padding."""
    labels: Integers | None = None
    """What each is to be said for; None where the pass has none."""
    number: int | None = None
    """Its position in the stage, where the trainer carries that along."""
    results: TokenResults | None = None
    """How the model does on it; None where the pass does not say."""

    @property
    def ids_key(self) -> bytes:
        """Equal for rows with the same tokens."""
        return self.ids.tobytes()

    @property
    def place(self) -> bytes | int:
        """What tells it from other rows of the batch."""
        return self.ids_key if self.number is None else self.number

    def part(self, start: int, end: int) -> Row:
        """The row from token `start` on and without those from `end` on."""
        labels = None if self.labels is None else self.labels[start:end]
        results = None
        if self.results is not None:
            log_probs, is_top1 = self.results
            results = TokenResults(log_probs[start : end - 1], is_top1[start : end - 1])
        return replace(self, ids=self.ids[start:end], labels=labels, results=results)

    def completed_by(self, other: Row) -> Row:
        """The row with the labels and results of another pass over it, where it has none."""
        labels = other.labels if self.labels is None else self.labels
        results = other.results if self.results is None else self.results
        return replace(self, labels=labels, results=results)


class ForwardPass(NamedTuple):
    """One forward pass of a model that is in training."""

    rows: list[Row]
    """The rows of its batch; [] where there are no token ids."""
    with_gradients: bool
    """Whether it is trained on: one without gradients is for metrics, or for comparison."""


def read_pass(
    args: Sequence[Any], inputs: dict[str, Any], outputs: Any, numbers: Sequence[int] | None = None
) -> ForwardPass:
    """What a pass says of its rows: `args` and `inputs` are what the model was called with.

    Without token ids, such as behind embeddings of the caller's own, it has one row without tokens,
    which is none of the data set's.
    """
    with_gradients = torch.is_grad_enabled()
    ids = inputs.get("input_ids", args[0] if args else None)
    if not _is_table(ids):
        return ForwardPass([Row(np.zeros(0, np.int64))], with_gradients)
    results = _token_results(ids, outputs)
    kept = _kept_tokens(ids, inputs.get("attention_mask"))
    labels = inputs.get("labels")
    all_labels = None
    if _is_table(labels) and labels.shape == ids.shape:
        all_labels = labels.cpu().numpy().astype(np.int64)
    all_ids = ids.cpu().numpy().astype(np.int64)
    rows = []
    for place, places in enumerate(map(np.flatnonzero, kept)):
        rows.append(
            Row(
                ids=all_ids[place][places],
                labels=None if all_labels is None else all_labels[place][places],
                number=None if numbers is None else numbers[place],
                results=None if results is None else _results_of(results, place, places),
            )
        )
    return ForwardPass(rows, with_gradients)


def _is_table(value: Any) -> TypeGuard[torch.Tensor]:
    return isinstance(value, torch.Tensor) and value.dim() == 2


def _kept_tokens(ids: torch.Tensor, mask: Any) -> npt.NDArray[np.bool_]:
    """(batch, length): which tokens are no padding; all of them where nothing says so."""
    if _is_table(mask) and mask.shape == ids.shape:
        kept: npt.NDArray[np.bool_] = mask.bool().cpu().numpy()
        return kept
    return np.ones(ids.shape, np.bool_)


def _results_of(results: TokenResults, place: int, places: Integers) -> TokenResults:
    """The results of the row at `place` of a batch, of which the tokens at `places` are kept."""
    # the first token that is kept has none: nothing stands before it
    before = places[1:] - 1
    return TokenResults(results.log_probs[place][before], results.is_top1[place][before])


def _token_results(ids: torch.Tensor, outputs: Any) -> TokenResults | None:
    """(batch, length - 1) each: how the model does on the tokens `ids`; None: it is not said."""
    if isinstance(outputs, FusedCausalLMOutput):
        # prompt learning puts positions of its own in front
        if outputs.is_top1 is None or outputs.log_probs.shape != ids[:, 1:].shape:
            return None
        log_probs = outputs.log_probs.detach().float()
        return TokenResults(log_probs.cpu().numpy(), outputs.is_top1.cpu().numpy())
    logits = getattr(outputs, "logits", None)
    # some patches hand out a stand-in for logits that they never compute
    if not isinstance(logits, torch.Tensor) or logits.shape[:2] != ids.shape:
        return None
    return _read_logits(ids, logits.detach())


@torch.no_grad()
def _read_logits(ids: torch.Tensor, logits: torch.Tensor) -> TokenResults:
    """What (batch, length, vocabulary) logits say of the tokens `ids`."""
    log_probs = np.zeros(ids[:, 1:].shape, np.float32)
    is_top1 = np.zeros(log_probs.shape, np.bool_)
    for place, row in enumerate(logits):
        for start in range(0, len(row) - 1, POSITIONS_AT_ONCE):
            # a few at a time: in float32 a whole row may be gigabytes
            part = slice(start, min(start + POSITIONS_AT_ONCE, len(row) - 1))
            said = row[part].float()
            tokens = ids[place, 1:][part].to(said.device)
            chosen = said.gather(1, tokens[:, None])[:, 0]
            log_probs[place, part] = (chosen - said.logsumexp(1)).cpu().numpy()
            is_top1[place, part] = (said.argmax(1) == tokens).cpu().numpy()
    return TokenResults(log_probs, is_top1)


def forms_without_padding(row: Row) -> Iterator[Row]:
    """What a row may be that has padding which nothing marks, the longest form first.

    Padding is one token, repeated at the end or at the front.
    """
    tokens = len(row.ids)
    at_end = _run_length(row.ids[::-1])
    at_front = _run_length(row.ids)
    for dropped in range(1, at_end + 1):
        yield row.part(0, tokens - dropped)
    for dropped in range(1, at_front + 1):
        yield row.part(dropped, tokens)


def _run_length(ids: Integers) -> int:
    """How often the first token is repeated at the beginning."""
    others = np.flatnonzero(ids != ids[:1])
    return int(others[0]) if len(others) else len(ids)


def read_results(row: Row, labels: Integers, first_counted: int = 0) -> SampleResult:
    """How a model does on a row with results.

    Loss is the mean of -log p over the tokens with a label from position `first_counted` on, nats
    per token, accuracy the share 0..1 of them that are the model's first choice; nan without such a
    token.
    """
    assert row.results is not None
    places = np.arange(1, len(row.ids))
    counted = (labels[1:] != IGNORED) & (places >= first_counted)
    if not counted.any():
        return SampleResult(math.nan, math.nan)
    loss = -row.results.log_probs[counted].mean(dtype=np.float64)
    return SampleResult(float(loss), float(row.results.is_top1[counted].mean()))
