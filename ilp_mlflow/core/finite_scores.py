"""Scores that are no numbers: a row of a score table with one is unscored. Pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa

NOT_FINITE = "the model's output is not a number"
"""Why a sample is unscored for which a model gives nan or infinity.

Minus infinity is among them: it is what any token gets beside one whose logit is infinite. For a
token that a model never says, since its vocabulary lacks it, a large negative number is given.
"""
NUMBERS = ("logprob", "token_accuracy", "gap", "p_correct", "p_wrong")
"""Columns of `Score` with one number per row, by which a sample is judged."""
KEPT = ("sample_id", "checkpoint", "tokens", "dtype", "unscored")
"""Columns of `Score` that say no more than what was scored, and how."""

Bools = npt.NDArray[np.bool_]


def unscore_nonfinite(scores: pa.Table) -> pa.Table:
    """The score table without numbers in rows that are unscored, or that have nan or infinity.

    The latter are unscored from now on, by NOT_FINITE. Where only the options behind a blanked
    prompt (`option_priors`) are not finite, the row loses these alone.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    nonfinite = ~lists_are_finite(scores["option_logprobs"])
    for name in NUMBERS:
        nonfinite |= is_nonfinite(scores[name])
    was_scored = pc.is_null(scores["unscored"]).to_numpy()
    reasons = pc.if_else(pa.array(nonfinite & was_scored), NOT_FINITE, scores["unscored"])
    columns = {}
    for name in scores.column_names:
        columns[name] = scores[name]
        if name not in KEPT:
            columns[name] = _without_rows(scores[name], nonfinite | ~was_scored)
    has_priors = lists_are_finite(scores["option_priors"])
    columns["option_priors"] = _without_rows(columns["option_priors"], ~has_priors)
    columns["unscored"] = reasons
    return pa.table(columns, schema=scores.schema)


def is_nonfinite(column: pa.ChunkedArray) -> Bools:
    """(rows,): whether a number is nan or infinite; a missing one is neither."""
    import pyarrow.compute as pc

    nonfinite: Bools = pc.fill_null(pc.invert(pc.is_finite(column)), False).to_numpy()
    return nonfinite


def lists_are_finite(column: pa.ChunkedArray) -> Bools:
    """(rows,): whether all numbers of a list are there and finite; a missing list has none."""
    import pyarrow.compute as pc

    lists = column.combine_chunks()
    is_number = pc.fill_null(pc.is_finite(pc.list_flatten(lists)), False)
    finite = np.ones(len(lists), bool)
    # nearly always: to find out whose numbers they are takes longer than to look at them
    if pc.all(is_number, min_count=0).as_py():
        return finite
    finite[pc.list_parent_indices(lists).to_numpy()[~is_number.to_numpy(False)]] = False
    return finite


def _without_rows(column: Any, rows: Bools) -> Any:
    """A column with null in some `rows`."""
    import pyarrow as pa

    # null is taken wherever the index is null
    return column.take(pa.array(np.arange(len(rows)), mask=rows))
