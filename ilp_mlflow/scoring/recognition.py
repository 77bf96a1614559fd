"""Does the right option win, and would it without the question? Shares of samples, from columns of scores. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

MEASURES = ("sum", "mean", "corrected", "blank", "chance")


def recognition_shares(scores: pa.Table, checkpoints: Sequence[str]) -> dict[str, dict[str, float]]:
    """Share 0..1 of the samples with options whose right option is the most probable one, by measure, then checkpoint.

    `sum`: by summed log-probability. `mean`: per token, which does not favour short options. `corrected`: less the sum
    behind a blank prompt, which favours neither short nor common ones (domain-conditional PMI, Holtzman et al. 2021,
    eq. 3). `blank`: by that sum alone, so how often the options give the answer away. `chance`: of a blind guess.
    Checkpoints without options are left out.
    """
    import pyarrow.compute as pc

    found: dict[str, dict[str, float]] = {name: {} for name in MEASURES}
    for name in checkpoints:
        rows = scores.filter(
            pc.and_(pc.equal(scores["checkpoint"], name), pc.is_valid(scores["option_priors"]))
        )
        if not rows.num_rows:
            continue
        counts = pc.list_value_length(rows["option_logprobs"]).to_numpy()
        starts = np.cumsum(counts) - counts
        logprobs, tokens, priors = (
            pc.list_flatten(rows[column]).to_numpy()
            for column in ("option_logprobs", "option_tokens", "option_priors")
        )
        by = {
            "sum": logprobs,
            "mean": logprobs / tokens,
            "corrected": logprobs - priors,
            "blank": priors,
        }
        for measure, values in by.items():
            others = values.copy()
            others[starts] = -np.inf
            found[measure][name] = float(
                (values[starts] > np.maximum.reduceat(others, starts)).mean()
            )
        found["chance"][name] = float((1 / counts).mean())
    return found
