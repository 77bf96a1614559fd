"""The study's own two tests of what the base knows (section 3.1.5)."""

from __future__ import annotations

from typing import NamedTuple

from ilp_mlflow.plugin import Context

EXISTS = 0.8
"""Accuracy 0..1 above which the base knows a sample (equation 2)."""
BLIND, BEST = 0.2, 0.1
"""Accuracy 0..1 over 10 runs, and of the best of 5, below which it is blind to it (equation 4)."""


class Knowledge(NamedTuple):
    """What the base knows of a sample by the study's tests."""

    exists: bool
    """Zero-shot accuracy above EXISTS (equation 2)."""
    blind: bool
    """pass@10 below BLIND and best-of-5 below BEST (equation 4), in expectation."""


def knowledge(context: Context) -> dict[str, Knowledge]:
    """The study's two tests of the base model, by id of the samples with options."""
    import pyarrow.compute as pc

    from ilp_mlflow import passrate

    base = context.scores.filter(pc.equal(context.scores["checkpoint"], context.checkpoints[0].name))
    best = passrate.best_of(base["option_logprobs"])
    rows = zip(base["sample_id"].to_pylist(), base["p_correct"].to_pylist(), best, strict=True)
    return {id_: Knowledge(p > EXISTS, bool(p < BLIND and b < BEST)) for id_, p, b in rows if p is not None}
