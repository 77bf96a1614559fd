"""Verdicts before and after a mitigation, set against a control. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ilp_mlflow.types import Status


@dataclass(frozen=True)
class Change:
    """What happened to the samples between two sets of verdicts."""

    recovered: tuple[str, ...]
    """Targets that are learned after."""
    still: tuple[str, ...]
    """Targets that are not."""
    regressed: tuple[str, ...]
    """Learned before and unlearned after, any sample."""


def compare(before: Mapping[str, Status], after: Mapping[str, Status], targets: Sequence[str]) -> Change:
    """Recovered and still failing targets, and regressed samples, by the statuses `before` and `after`."""
    return Change(
        recovered=tuple(i for i in targets if after[i] == "learned"),
        still=tuple(i for i in targets if after[i] != "learned"),
        regressed=tuple(i for i, s in before.items() if s == "learned" and after[i] == "unlearned"),
    )


def net_recovery(
    recovered: Sequence[str], control: Sequence[str], targets: Sequence[str], seed: int = 0
) -> tuple[float, tuple[float, float], float]:
    """Net recovery over the targets, its 95 % percentile bootstrap interval, and the exact McNemar p-value.

    `recovered` and `control` are the targets learned under the mitigation and under its control.
    """
    from scipy.stats import binomtest

    ours, theirs = (np.isin(list(targets), list(ids)) for ids in (recovered, control))
    difference = ours.astype(float) - theirs.astype(float)
    draws = np.random.default_rng(seed).integers(len(targets), size=(2000, len(targets)))
    low, high = np.percentile(difference[draws].mean(1), [2.5, 97.5])
    gained, lost = int((difference > 0).sum()), int((difference < 0).sum())
    p_value = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return float(difference.mean()), (float(low), float(high)), p_value
