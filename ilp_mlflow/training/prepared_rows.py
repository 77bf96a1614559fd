"""What a trainer made of each sample before the first step: its tokens, cut and supervised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ilp_mlflow.core.errors import ConfigError
from ilp_mlflow.core.values import Sample
from ilp_mlflow.scoring.encoding import Tokenization, encode_sample

IGNORED = -100
"""The label of a token that does not contribute to the loss."""
SAME_ROWS = "give IlpCallback the rows that the trainer gets as train_dataset, in their order"


@dataclass(frozen=True)
class PreparedRow:
    """One sample as the trainer prepared it."""

    whole_tokens: int
    """Tokens of the whole sample: prompt, completion and end token."""
    row_tokens: int
    """Tokens left of them once `max_length` has cut the row; 0 for a row that was dropped."""
    supervised_tokens: int
    """Of these, the tokens that contribute to the loss each time the row is trained."""
    first_counted: int = 0
    """Position in the row before which no token counts, supervised or not."""
    key: bytes = b""
    """What the row is known by in a batch: see `row_key`; empty where it is known by its number."""

    @property
    def truncated_tokens(self) -> int:
        """Tokens cut away by `max_length`."""
        return max(0, self.whole_tokens - self.row_tokens)


def row_key(ids: Sequence[int], labels: Sequence[int]) -> bytes:
    """Token ids and labels of a row, without padding: equal for equal rows."""
    return np.stack([ids, labels]).astype(np.int64).tobytes()


def read_numbered_rows(
    samples: Sequence[Sample], tokenization: Tokenization, prepared: Any
) -> list[PreparedRow]:
    """The rows of our own trainer: column `row` of `prepared` says which sample each row is.

    A sample that the trainer dropped, since truncation left it no supervised token, has no tokens.
    """
    row_tokens, supervised_tokens = dict[int, int](), dict[int, int]()
    for example in prepared:
        row_tokens[example["row"]] = len(example["input_ids"])
        supervised_tokens[example["row"]] = _count_supervised(example["labels"], 0)
    rows = []
    for number, sample in enumerate(samples):
        whole = encode_sample(sample, tokenization)
        rows.append(
            PreparedRow(
                whole_tokens=len(whole.ids),
                row_tokens=row_tokens.get(number, 0),
                supervised_tokens=supervised_tokens.get(number, 0),
            )
        )
    return rows


def match_rows(
    samples: Sequence[Sample], tokenization: Tokenization, prepared: Any, keeps_end: bool
) -> list[PreparedRow]:
    """The rows of someone else's trainer, matched to the samples by order and tokens.

    `prepared` is the data set that TRL made of the samples, `keeps_end` whether it cuts rows in
    front. Of each row only the tokens of the answer count, whatever else is supervised.

    Raises ConfigError when `prepared` is streamed, has another number of rows, or holds a row with
    other tokens than its sample gives when it is scored.
    """
    if not hasattr(prepared, "data"):
        raise ConfigError(
            f"IlpCallback: the trainer's rows are streamed; {SAME_ROWS}, and both as a Dataset"
        )
    # the table below the data set: in the order of the samples even if the data set was shuffled,
    # and with the rows that the trainer dropped
    table = prepared.data
    if table.num_rows != len(samples):
        raise ConfigError(
            f"IlpCallback has {len(samples)} rows, the trainer {table.num_rows}; {SAME_ROWS}"
        )
    columns = zip(samples, table.column("input_ids"), table.column("labels"), strict=True)
    return [
        _match_row(sample, tokenization, ids.as_py(), labels.as_py(), keeps_end)
        for sample, ids, labels in columns
    ]


def _match_row(
    sample: Sample,
    tokenization: Tokenization,
    ids: list[int],
    labels: list[int],
    keeps_end: bool,
) -> PreparedRow:
    whole = encode_sample(sample, tokenization)
    cut_in_front = _tokens_cut_in_front(whole.ids, ids, keeps_end)
    if cut_in_front is None:
        raise ConfigError(
            f"sample '{sample.id}': the trainer has other tokens than its text gives when it is "
            f"scored; {SAME_ROWS}"
        )
    answer_start = max(0, whole.start - cut_in_front)
    return PreparedRow(
        whole_tokens=len(whole.ids),
        row_tokens=len(ids),
        supervised_tokens=_count_supervised(labels, answer_start),
        first_counted=answer_start,
        key=row_key(ids, labels),
    )


def _tokens_cut_in_front(whole: list[int], row: list[int], keeps_end: bool) -> int | None:
    """How many tokens of the whole sample are missing in front of the row; None: not its tokens."""
    offsets = range(len(whole)) if keeps_end else range(1)
    for offset in offsets:
        # The row may also be the longer one: behind the end token, where a sample ends, a chat
        # template may add more.
        common = min(len(whole) - offset, len(row))
        if whole[offset : offset + common] == row[:common]:
            return offset
    return None


def _count_supervised(labels: Sequence[int], first_counted: int) -> int:
    # nothing precedes the first token of a row that it could be predicted from
    return sum(label != IGNORED for label in labels[max(1, first_counted) :])
