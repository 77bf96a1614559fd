"""The statistics of a mitigation against its control, each with its formula and source."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

BOOTSTRAP_DRAWS = 2000
"""Resamples of the targets for the interval of the net recovery."""


class NetRecovery(NamedTuple):
    """How much more a mitigation recovers of its targets than its control does."""

    share: float
    """Share of targets recovered, minus the same share under the control: -1..1."""
    interval: tuple[float, float]
    """Its 95 % bootstrap interval."""
    p_value: float
    """Of the exact McNemar test of the two against each other."""


def net_recovery(
    recovered: Collection[str], by_control: Collection[str], targets: Sequence[str], seed: int = 0
) -> NetRecovery:
    """How much more of the `targets` a mitigation recovers than its control does; ids of samples.

    With d = 1 for a target that only the mitigation recovers, -1 for one that only the control
    does, else 0: the share is the mean of d; its interval the 2.5 and 97.5 % percentiles of the
    means of BOOTSTRAP_DRAWS resamples of the targets (percentile bootstrap, Efron and Tibshirani
    1993, section 13.3); the p-value McNemar's. Targets are taken for independent of each other.
    """
    with_mitigation = np.isin(list(targets), list(recovered)).astype(float)
    with_control = np.isin(list(targets), list(by_control)).astype(float)
    difference = with_mitigation - with_control
    rng = np.random.default_rng(seed)
    # (draws, targets)
    resamples = rng.integers(len(targets), size=(BOOTSTRAP_DRAWS, len(targets)))
    low, high = np.percentile(difference[resamples].mean(1), [2.5, 97.5])
    p_value = mcnemar_p(int((difference > 0).sum()), int((difference < 0).sum()))
    return NetRecovery(float(difference.mean()), (float(low), float(high)), p_value)


def mcnemar_p(gained: int, lost: int) -> float:
    """The exact two-sided p-value of McNemar's test (McNemar 1947).

    If neither side is better, each of the `gained` + `lost` cases that differ goes either way with
    probability one half: a binomial test.
    """
    # here and not above, since scipy takes a second to import
    from scipy.stats import binomtest

    # binomtest refuses to judge nothing
    if gained + lost == 0:
        return 1.0
    return float(binomtest(gained, gained + lost).pvalue)


def newcombe_interval(
    treated: int, control: int, total: int, z: float = 1.96
) -> tuple[float, float]:
    """The interval of the difference of two shares, `treated` and `control` of `total` cases.

    Newcombe 1998, method 10: with shares p and q and their Wilson intervals,
    p - q - sqrt((p - p_low)^2 + (q_high - q)^2) to p - q + sqrt((p_high - p)^2 + (q - q_low)^2).
    It takes the two for independent, so as a rule it is too wide for two runs on the same samples:
    what is easy is easy for both. `z` = 1.96 gives the 95 % interval.
    """
    p = treated / total
    q = control / total
    p_low, p_high = _wilson_interval(p, total, z)
    q_low, q_high = _wilson_interval(q, total, z)
    low = p - q - math.hypot(p - p_low, q_high - q)
    high = p - q + math.hypot(p_high - p, q - q_low)
    return low, high


def _wilson_interval(share: float, total: int, z: float) -> tuple[float, float]:
    """The score interval of a share of `total` cases (Wilson 1927).

    (p + z^2/2n -+ z sqrt(p (1 - p) / n + z^2/4n^2)) / (1 + z^2/n)
    """
    extra = z * z / total
    half = z * math.sqrt(share * (1 - share) / total + extra / (4 * total))
    low = (share + extra / 2 - half) / (1 + extra)
    high = (share + extra / 2 + half) / (1 + extra)
    return low, high
