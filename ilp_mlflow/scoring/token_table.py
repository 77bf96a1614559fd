"""What models give for every token of the right answers, as a table: 12 bytes a token."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from ilp_mlflow.core.values import Score, to_table
from ilp_mlflow.scoring.scorer import SampleScore

COLUMNS = ("logprobs", "best_logprobs", "best_ids")
"""Columns of lists with one number for each token; see `TokenScores`."""


def scores_with_tokens(scored: Sequence[SampleScore]) -> pa.Table:
    """Scores in the columns of `Score`, and those of their tokens in COLUMNS beside them."""
    table = to_table([one.score for one in scored], Score)
    for name, kind in zip(COLUMNS, (pa.float32(), pa.float32(), pa.int32()), strict=True):
        lists = [getattr(one.tokens, name) for one in scored]
        table = table.append_column(name, pa.array(lists, pa.list_(kind)))
    return table


def without_tokens(table: pa.Table) -> pa.Table:
    """The columns of `Score` alone."""
    return table.drop_columns(list(COLUMNS))


def tokens_alone(table: pa.Table) -> pa.Table:
    """Sample, checkpoint and COLUMNS alone, of the samples that are scored."""
    return table.select(["sample_id", "checkpoint", *COLUMNS]).filter(
        pa.compute.is_null(table["unscored"])
    )
