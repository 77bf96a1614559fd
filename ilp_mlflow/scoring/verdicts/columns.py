"""Columns of a score table, read so that what is no number is told from what is one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ilp_mlflow.core.finite_scores import NOT_FINITE, is_nonfinite, lists_are_finite
from ilp_mlflow.scoring.metrics import Floats

if TYPE_CHECKING:
    import pyarrow as pa

Bools = npt.NDArray[np.bool_]


def floats(table: pa.Table, name: str) -> Floats:
    """(rows,): a column of numbers; nan where one is missing or infinite."""
    column: Floats = table[name].to_numpy().astype(np.float64, copy=False)
    return np.where(np.isfinite(column), column, np.nan)


def probabilities(scores: pa.Table) -> Floats:
    """(rows,): the probability of the right option; nan where there is none from 0 to 1."""
    p_correct = floats(scores, "p_correct")
    return np.where((p_correct >= 0) & (p_correct <= 1), p_correct, np.nan)


def percentages(scores: pa.Table) -> pa.Array:
    """The probability of the right option with two decimals, as text; null without options."""
    texts = [f"{percent / 100:.2f}" for percent in range(101)]
    percents = np.rint(100 * probabilities(scores))
    return pick(texts, np.nan_to_num(percents, nan=-1).astype(int))


def is_bfloat16(scores: pa.Table) -> Bools:
    """(rows,): whether a row was computed in bfloat16."""
    import pyarrow.compute as pc

    in_bfloat16: Bools = pc.fill_null(pc.equal(scores["dtype"], "bfloat16"), False).to_numpy()
    return in_bfloat16


def gave_no_number(scores: pa.Table) -> Bools:
    """(rows,): whether a row is unscored since a model gave nan or infinity."""
    import pyarrow.compute as pc

    gave_none: Bools = pc.fill_null(pc.equal(scores["unscored"], NOT_FINITE), False).to_numpy()
    for name in ("logprob", "gap", "p_correct"):
        gave_none = gave_none | is_nonfinite(scores[name])
    return gave_none | ~lists_are_finite(scores["option_logprobs"])


def is_measured(scores: pa.Table) -> Bools:
    """(rows,): whether a row does not say itself that it is unscored, and all in it is finite."""
    says_nothing: Bools = scores["unscored"].is_null().to_numpy()
    return says_nothing & ~gave_no_number(scores)


def join(*parts: Any) -> pa.Array:
    """Texts and columns, numbers among them, joined row by row; null where one of them is."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = []
    for part in parts:
        is_numbers = isinstance(part, np.ndarray)
        texts.append(pa.array(part).cast("string") if is_numbers else part)
    return pc.binary_join_element_wise(*texts, "")


def pick(names: Sequence[str], index: npt.NDArray[Any]) -> pa.Array:
    """The name at each index, null at a negative one."""
    import pyarrow as pa

    return pa.array(names, pa.string()).take(pa.array(index, mask=index < 0))
