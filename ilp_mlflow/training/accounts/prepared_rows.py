"""What a trainer made of each sample before the first step: its tokens, cut and supervised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt

from ilp_mlflow.core.errors import ConfigError
from ilp_mlflow.core.values import Sample
from ilp_mlflow.scoring.tokens.encoding import Tokenization
from ilp_mlflow.training.accounts.row_account import (
    IGNORED,
    RowAccount,
    TrainedTokens,
    account_row,
    encode_as_trained,
    trained_tokens,
)

SAME_ROWS = "give IlpCallback the rows that the trainer gets as train_dataset, in their order"


@dataclass(frozen=True)
class PreparedRow:
    """One sample as the trainer prepared it."""

    account: RowAccount
    """What the model sees of it, and which of that is in the loss."""
    row_tokens: int
    """Tokens that are left of the row; 0 for a row that was dropped."""
    first_counted: int = 0
    """Position in the row before which no token counts, supervised or not."""
    key: bytes = b""
    """What the row is known by in a batch: see `row_key`; empty where it is known by its number."""

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """Its tokens; none where it is known by its number."""
        return self._columns[0]

    @property
    def labels(self) -> npt.NDArray[np.int64] | None:
        """Its labels as they were prepared; None where it is known by its number."""
        return self._columns[1] if self.key else None

    @property
    def _columns(self) -> npt.NDArray[np.int64]:
        columns: npt.NDArray[np.int64] = np.frombuffer(self.key, np.int64).reshape(2, -1)
        return columns

    @property
    def whole_tokens(self) -> int:
        """Tokens of the whole sample: prompt, completion and end token."""
        return self.account.prompt_tokens + self.account.answer_tokens


def row_key(
    ids: Sequence[int] | npt.NDArray[np.int64], labels: Sequence[int] | npt.NDArray[np.int64]
) -> bytes:
    """Token ids and labels of a row, without padding: equal for equal rows."""
    return np.stack([ids, labels]).astype(np.int64).tobytes()


def read_numbered_rows(
    samples: Sequence[Sample],
    tokenization: Tokenization,
    prepared: Any,
    training: Mapping[str, Any],
) -> list[PreparedRow]:
    """The rows of our own trainer: column `row` of `prepared` says which sample each row is.

    `training` are the options that `prepared` was made with. A sample that the trainer dropped,
    since it has no supervised token, has no tokens. Raises ConfigError when a row has other tokens
    than its sample gives.
    """
    rows_by_number = {example["row"]: example for example in prepared}
    rows = []
    for number, sample in enumerate(samples):
        encoded = encode_as_trained(sample, tokenization, training)
        tokens = trained_tokens(sample, encoded, tokenization.tokenizer, training)
        is_dropped = number not in rows_by_number
        if not is_dropped:
            example = rows_by_number[number]
            _refuse_others(sample, tokens, example["input_ids"], example["labels"])
        rows.append(
            PreparedRow(
                account=account_row(sample, encoded, tokens, tokenization),
                row_tokens=0 if is_dropped else len(tokens.ids),
                first_counted=max(0, encoded.start - len(tokens.cut_before)),
            )
        )
    return rows


def mask_left_out(
    prepared: datasets.Dataset,
    samples: Sequence[Sample],
    tokenization: Tokenization,
    training: Mapping[str, Any],
) -> datasets.Dataset:
    """The rows of our own trainer with no turn in the loss that its row keeps out of it.

    TRL does not read the `weight` of a turn. Rows without a label are dropped, as TRL drops them.
    """
    weighted = {
        number
        for number, sample in enumerate(samples)
        if sample.left_out or sample.leaves_earlier_turns_out
    }
    if not weighted:
        return prepared

    def relabel(example: dict[str, Any]) -> dict[str, Any]:
        sample = samples[example["row"]]
        if example["row"] not in weighted:
            return {"labels": example["labels"]}
        encoded = encode_as_trained(sample, tokenization, training)
        return {"labels": trained_tokens(sample, encoded, tokenization.tokenizer, training).labels}

    def has_label(example: dict[str, Any]) -> bool:
        return any(label != IGNORED for label in example["labels"])

    return prepared.map(relabel).filter(has_label)


def _refuse_others(
    sample: Sample, tokens: TrainedTokens, ids: Sequence[int], labels: Sequence[int]
) -> None:
    """Raise ConfigError when a trainer has other tokens or labels than the account of a sample."""
    if list(ids) != list(tokens.ids) or list(labels) != list(tokens.labels):
        raise ConfigError(
            f"{sample.name}: TRL would train it on other tokens than its text gives when it is "
            "scored; does an option of 'training' change rows?"
        )


def match_rows(
    samples: Sequence[Sample],
    tokenization: Tokenization,
    prepared: Any,
    training: Mapping[str, Any],
) -> list[PreparedRow]:
    """The rows of someone else's trainer, matched to the samples by order and tokens.

    `prepared` is the data set that TRL made of the samples with the options `training`. Of each row
    only the tokens of the answer count, whatever else is supervised.

    Raises ConfigError when `prepared` is streamed or not tokenised, has another number of rows, or
    holds a row with other tokens than its sample gives.
    """
    if not hasattr(prepared, "data"):
        raise ConfigError(
            f"IlpCallback: the trainer's rows are streamed; {SAME_ROWS}, and both as a Dataset"
        )
    # the table below the data set: in the order of the samples even if the data set was shuffled,
    # and with the rows that the trainer dropped
    table = prepared.data
    if "input_ids" not in table.column_names:
        raise ConfigError(
            f"IlpCallback: the trainer's rows have no 'input_ids' (columns: "
            f"{', '.join(table.column_names)}); tokenise them before the trainer is made"
        )
    if table.num_rows != len(samples):
        raise ConfigError(
            f"IlpCallback has {len(samples)} rows, the trainer {table.num_rows}; {SAME_ROWS}"
        )
    # where a collator makes the labels, the batches say which they are
    labels = "labels" if "labels" in table.column_names else "input_ids"
    columns = zip(samples, table.column("input_ids"), table.column(labels), strict=True)
    return [
        match_row(sample, tokenization, ids.as_py(), labels.as_py(), training)
        for sample, ids, labels in columns
    ]


def match_row(
    sample: Sample,
    tokenization: Tokenization,
    ids: Sequence[int],
    labels: Sequence[int],
    training: Mapping[str, Any],
) -> PreparedRow:
    """A row that someone else's trainer made of a sample, with these tokens and labels.

    Raises ConfigError when its tokens are not those of the sample.
    """
    ids, labels = [int(id_) for id_ in ids], list(labels)
    encoded = encode_as_trained(sample, tokenization, training)
    keeps_end = training.get("truncation_mode") == "keep_end"
    cut_in_front = _tokens_cut_in_front(encoded.ids, ids, keeps_end)
    if cut_in_front is None:
        raise ConfigError(
            f"sample '{sample.id}': the trainer has other tokens than its text gives when it is "
            f"scored; {SAME_ROWS}"
        )
    whole = [*encoded.ids, *encoded.tail]
    tokens = TrainedTokens(ids, labels, whole[:cut_in_front], whole[cut_in_front + len(ids) :])
    return PreparedRow(
        account=account_row(sample, encoded, tokens, tokenization),
        row_tokens=len(ids),
        first_counted=max(0, encoded.start - cut_in_front),
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
