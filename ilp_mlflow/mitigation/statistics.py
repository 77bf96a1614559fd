"""The statistics of a mitigation against its control, by SciPy and statsmodels."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

BOOTSTRAP_DRAWS = 2000
"""Resamples of the targets for the interval of the net recovery."""


class NetRecovery(NamedTuple):
    """How much more a mitigation recovers of its targets than its control does."""

    share: float | None
    """Share of targets recovered, minus the same share under the control: -1..1; None without
    targets."""
    interval: tuple[float, float] | None
    """Its 95 % bootstrap interval; None without targets."""
    p_value: float
    """Of the exact McNemar test of the two against each other."""


def net_recovery(
    recovered: Collection[str],
    by_control: Collection[str],
    targets: Sequence[str],
    seed: int = 0,
    unknown: int = 0,
) -> NetRecovery:
    """How much more of the `targets` a mitigation recovers than its control does; ids of samples.

    With d = 1 for a target that only the mitigation recovers, -1 for one that only the control
    does, else 0: the share is the mean of d; its interval the percentile bootstrap (Efron and
    Tibshirani 1993, section 13.3) over the targets; the p-value McNemar's. Targets are taken for
    independent of each other. Of `unknown` more samples, not among these, scores are missing:
    in the test they count as -1, the worst that they may be.
    """
    with_mitigation = np.isin(list(targets), list(recovered)).astype(float)
    with_control = np.isin(list(targets), list(by_control)).astype(float)
    difference = with_mitigation - with_control
    p_value = mcnemar_p(int((difference > 0).sum()), int((difference < 0).sum()) + unknown)
    if not targets:
        return NetRecovery(None, None, p_value)
    return NetRecovery(float(difference.mean()), _bootstrap_interval(difference, seed), p_value)


def _bootstrap_interval(difference: np.ndarray, seed: int) -> tuple[float, float]:
    """95 % interval of the mean of `difference` (targets)."""
    from scipy.stats import bootstrap

    # one target resamples to itself, which SciPy refuses
    if len(difference) == 1:
        return float(difference[0]), float(difference[0])
    low, high = bootstrap(
        (difference,),
        np.mean,
        n_resamples=BOOTSTRAP_DRAWS,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(low), float(high)


def mcnemar_p(gained: int, lost: int) -> float:
    """The exact two-sided p-value of McNemar's test (McNemar 1947).

    If neither side is better, each of the `gained` + `lost` cases that differ goes either way with
    probability one half: a binomial test.
    """
    from scipy.stats import binomtest

    if gained + lost == 0:
        return 1.0
    return float(binomtest(gained, gained + lost).pvalue)


def newcombe_interval(treated: int, control: int, total: int) -> tuple[float, float]:
    """The 95 % interval of the difference of two shares, `treated` and `control` of `total` cases.

    Newcombe 1998, method 10, from the Wilson intervals of the two. It takes the two for
    independent, so as a rule it is too wide for two runs on the same samples: what is easy is easy
    for both.
    """
    from statsmodels.stats.proportion import confint_proportions_2indep

    low, high = confint_proportions_2indep(
        treated, total, control, total, method="newcomb", compare="diff"
    )
    return float(low), float(high)


def significant(p_values: Sequence[float], level: float) -> list[bool]:
    """Which of several p-values are below `level`, corrected for their number.

    Holm 1979: of m p-values in ascending order, the k-th (from 0) is significant while it and all
    before it are below level / (m - k).
    """
    # statsmodels has this, too, but collects garbage at every call: that takes longer than a report
    rejected = [False] * len(p_values)
    ascending = sorted(range(len(p_values)), key=lambda place: p_values[place])
    for k, place in enumerate(ascending):
        if p_values[place] * (len(p_values) - k) >= level:
            break
        rejected[place] = True
    return rejected
