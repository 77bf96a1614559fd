"""Verdicts before and after a mitigation, set against a control. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ilp_mlflow.core.values import Outcome, Status, Tally

GUARDED = 0.02
"""Share 0..1 of the guard set that a mitigation may lose beyond its control and still be recommended."""
LONGER = 1.2
"""How many times the tokens of its control a mitigation may train on without that being said."""


@dataclass(frozen=True)
class Change:
    """What happened to the samples between two sets of verdicts."""

    recovered: tuple[str, ...]
    """Unlearned before and learned after."""
    still: tuple[str, ...]
    """Unlearned before and not learned after."""
    regressed: tuple[str, ...]
    """Learned before and unlearned after."""


def compare_statuses(before: Mapping[str, Status], after: Mapping[str, Status]) -> Change:
    """What happened to all samples, by their statuses `before` and `after`."""
    unlearned = [i for i, s in before.items() if s == "unlearned"]
    return Change(
        recovered=tuple(i for i in unlearned if after[i] == "learned"),
        still=tuple(i for i in unlearned if after[i] != "learned"),
        regressed=tuple(i for i, s in before.items() if s == "learned" and after[i] == "unlearned"),
    )


def tally_by_cause(
    causes: Mapping[str, str],
    recovered: Collection[str],
    control: Collection[str],
    held: Mapping[str, bool] = {},
    held_by_control: Mapping[str, bool] = {},
) -> dict[str, Tally]:
    """What became of samples by cause (`causes` by id of every unlearned sample): under a mitigation, and under its control.

    `held` says of those that were asked in other words whether most of these were reproduced.
    """
    found: dict[str, list[str]] = {}
    for id_, cause in causes.items():
        found.setdefault(cause, []).append(id_)
    ours, theirs = frozenset(recovered), frozenset(control)
    return {
        cause: Tally(
            unlearned=len(ids),
            recovered=len(ours & set(ids)),
            by_control=len(theirs & set(ids)),
            paraphrased=sum(i in held for i in ids),
            held=sum(held.get(i, False) for i in ids),
            held_by_control=sum(held_by_control.get(i, False) for i in ids),
        )
        for cause, ids in sorted(found.items())
    }


def outcome_fields(
    before: Mapping[str, Status],
    causes: Mapping[str, str],
    targets: Sequence[str],
    after: Mapping[str, Status],
    control: Mapping[str, Status] | None,
    held: Mapping[str, bool],
    held_by_control: Mapping[str, bool],
    dropped: tuple[Collection[str], Collection[str]] = ((), ()),
    seed: int = 0,
) -> dict[str, Any]:
    """The fields of `Outcome` that follow from statuses before, after and after the control, and what is held in other words.

    `dropped` are the samples that the plan, and its control, leave out on purpose: of these none regresses, and those that were
    learned do not count in the share of unlearned ones.
    """
    ours = compare_statuses(before, after)
    theirs = compare_statuses(before, control) if control is not None else None
    gone = [frozenset(ids) for ids in dropped]
    left_out = tuple(i for i in ours.regressed if i in gone[0])
    found: dict[str, Any] = {
        "targets": tuple(targets),
        "recovered": ours.recovered,
        "still": ours.still,
        "regressed": tuple(i for i in ours.regressed if i not in gone[0]),
        "left_out": left_out,
        "unlearned_rate": (sum(s == "unlearned" for s in after.values()) - len(left_out))
        / max(1, len(after) - len(left_out)),
    }
    found["causes"] = tally_by_cause(
        causes, ours.recovered, theirs.recovered if theirs else (), held, held_by_control
    )
    if theirs and targets:
        mine, others = ([i for i in targets if i in set(c.recovered)] for c in (ours, theirs))
        share, interval, p_value = net_recovery(mine, others, targets, seed)
        found |= {"net_recovery": share, "net_interval": interval, "p_value": p_value}
        found["regressed_by_control"] = sum(i not in gone[1] for i in theirs.regressed)
    return found


def recommended(outcomes: Sequence[Outcome], level: float = 0.05) -> Outcome | None:
    """The one mitigation to take, or None when none beat its control.

    Those count whose net recovery is above 0 at `level` by the exact test, corrected for their number (Holm 1979), that recover
    more samples than they make regress, both outright and beyond the control, and that lose no more than GUARDED of the guard set
    beyond it; of these the one with the most samples to the good beyond the control.
    """
    worth = [
        o
        for o in _better(outcomes, level)
        if _gain(o) > 0 and len(o.recovered) > len(o.regressed) and _lost(o) <= GUARDED
    ]
    return max(worth, key=lambda o: (_gain(o), o.mitigation), default=None)


def _better(outcomes: Sequence[Outcome], level: float) -> list[Outcome]:
    """Those that beat their control."""
    tried = sorted(
        (o for o in outcomes if o.p_value is not None and o.targets), key=lambda o: o.p_value or 0.0
    )
    found = []
    for place, one in enumerate(tried):
        if (one.p_value or 0.0) * (len(tried) - place) >= level:
            break
        found.append(one)
    return [o for o in found if (o.net_recovery or 0.0) > 0]


def recommendation_text(outcomes: Sequence[Outcome], level: float = 0.05) -> str:
    """What to take and why, in one sentence; that nothing is worth taking; or "" where nothing was tried against a control."""
    best, better = recommended(outcomes, level), _better(outcomes, level)
    if best is None and better:
        names = ", ".join(f"{o.mitigation} ({o.net_recovery:+.0%} of its targets)" for o in better)
        return (
            f"Nothing is worth taking: what beats its control makes as many samples regress as it recovers, or loses more than "
            f"{GUARDED:.0%} of what was to stay: {names}."
        )
    if best is None:
        return "Nothing beat the control." if any(o.p_value is not None for o in outcomes) else ""
    name = f"{best.mitigation} ({', '.join(best.combines)})" if best.combines else best.mitigation
    text = (
        f"Take {name}: net of its control it recovers {best.net_recovery:.0%} of its {len(best.targets)} targets "
        f"(p = {best.p_value:.2g}); in all, {_gain(best)} more samples are learned than under its control"
    )
    asked = [t for t in best.causes.values() if t.paraphrased]
    if asked:
        text += f", and {sum(t.held - t.held_by_control for t in asked)} more hold in other words"
    if best.guard:
        one = best.guard
        text += f"; of {one.right} answers that were to stay it loses {one.lost}, its control {one.lost_by_control}"
    if best.control_tokens and best.tokens > LONGER * best.control_tokens:
        times = best.tokens / best.control_tokens
        text += f"; it trains on {times:.1f} times the tokens of its control, so part of that may be more training alone"
    return f"{text}."


def _lost(one: Outcome) -> float:
    """Share 0..1 of the guard set that is lost beyond the control."""
    return (one.guard.lost - one.guard.lost_by_control) / one.guard.right if one.guard else 0.0


def _gain(one: Outcome) -> int:
    """Samples recovered beyond the control, less those regressed beyond it."""
    beyond = sum(t.recovered - t.by_control for t in one.causes.values())
    return beyond - (len(one.regressed) - (one.regressed_by_control or 0))


def net_recovery(
    recovered: Sequence[str], control: Sequence[str], targets: Sequence[str], seed: int = 0
) -> tuple[float, tuple[float, float], float]:
    """Net recovery over the targets, its 95 % percentile bootstrap interval, and the exact McNemar p-value.

    `recovered` and `control` are the targets learned under the mitigation and under its control.
    """
    ours, theirs = (np.isin(list(targets), list(ids)) for ids in (recovered, control))
    difference = ours.astype(float) - theirs.astype(float)
    draws = np.random.default_rng(seed).integers(len(targets), size=(2000, len(targets)))
    low, high = np.percentile(difference[draws].mean(1), [2.5, 97.5])
    p_value = mcnemar_p(int((difference > 0).sum()), int((difference < 0).sum()))
    return float(difference.mean()), (float(low), float(high)), p_value


def newcombe_interval(ours: int, theirs: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of the difference of two shares, `ours` and `theirs` of `total` (Newcombe 1998, method 10).

    It takes the two for independent, so it is as a rule too wide for two runs on the same samples: what is easy is easy for both.
    """

    def wilson(count: int) -> tuple[float, float, float]:
        share, extra = count / total, z * z / total
        half = z * math.sqrt(share * (1 - share) / total + extra / (4 * total))
        return (
            share,
            (share + extra / 2 - half) / (1 + extra),
            (share + extra / 2 + half) / (1 + extra),
        )

    (p, p_low, p_high), (q, q_low, q_high) = wilson(ours), wilson(theirs)
    return p - q - math.hypot(p - p_low, q_high - q), p - q + math.hypot(p_high - p, q - q_low)


def mcnemar_p(gained: int, lost: int) -> float:
    """The exact two-sided p-value of McNemar's test: `gained` and `lost` cases are equally likely."""
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def transitions(before: Mapping[str, Status], after: Mapping[str, Status]) -> dict[str, list[str]]:
    """Ids by what became of them from `before` to `after`; those of only one side are `only_before` and `only_after`.

    `recovered`, `regressed`, `still` (unlearned in both), `kept` (learned in both), `flickering` (`uncertain` on one side or both),
    `unscored` (on one side or both).
    """
    names = (
        "recovered",
        "regressed",
        "still",
        "kept",
        "flickering",
        "unscored",
        "only_before",
        "only_after",
    )
    found: dict[str, list[str]] = {name: [] for name in names}
    pairs = {
        ("unlearned", "learned"): "recovered",
        ("learned", "unlearned"): "regressed",
        ("unlearned", "unlearned"): "still",
        ("learned", "learned"): "kept",
    }
    for id_ in dict.fromkeys([*before, *after]):
        if id_ not in after or id_ not in before:
            found["only_before" if id_ in before else "only_after"].append(id_)
            continue
        both = before[id_], after[id_]
        found["unscored" if "unscored" in both else pairs.get(both, "flickering")].append(id_)
    return found


def outcome_sentence(one: Outcome) -> str:
    """What came of a mitigation in a sentence or two, for the description of its run."""
    unlearned = len(one.recovered) + len(one.still)
    text = f"{len(one.recovered)} of {unlearned} unlearned samples are learned now, {len(one.regressed)} learned ones regressed."
    if one.net_recovery is None or one.net_interval is None:
        return text
    low, high = one.net_interval
    net = f"{one.net_recovery:+.0%} ({low:+.0%} to {high:+.0%}) net of its control"
    return f"{text} Of its {len(one.targets)} targets it recovers {net}; there {one.regressed_by_control} regressed."
