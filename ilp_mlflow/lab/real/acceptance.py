"""Which planted groups of the real lab count: those that are as they were planted to be."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ilp_mlflow.lab.rows import CAUSES

MOST_PLANTED = 0.30
"""Share 0..1 of a group that may be learned with its cause."""
LEAST_REMOVED = 0.85
"""Share 0..1 of a group that must be learned without it."""
LEAST_CONTROL = 0.95
"""Share 0..1 of the control that must be learned."""
MOST_UNSCORED = 1
"""Groups that may be left out of a seed's score."""


def with_acceptance(result: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a lab with what was accepted, and scores of the accepted groups alone.

    `acceptance` says of every group why it is not accepted, "" where it is. The rows of a group
    that is not are left out of `per_cause` and `macro_f1`, which is 0 with more than MOST_UNSCORED
    such groups, or with a control that training did not teach: then nothing is known, and the seed
    does not count (`seed_counts`).
    """
    acceptance = {group: fault(group, shares) for group, shares in result["groups"].items()}
    scored = [cause for cause in CAUSES if not acceptance[cause]]
    counts = not acceptance["control"] and len(CAUSES) - len(scored) <= MOST_UNSCORED
    attribution = dict[str, Any]()
    for name, found in result["attribution"].items():
        f1 = {cause: f1_of(cause, found["confusion"], scored) for cause in scored}
        mean = sum(f1.values()) / len(f1) if counts else 0.0
        attribution[name] = found | {"per_cause": f1, "macro_f1": mean}
    return dict(result) | {
        "acceptance": acceptance,
        "seed_counts": counts,
        "attribution": attribution,
    }


def fault(group: str, shares: Mapping[str, float]) -> str:
    """What keeps a group from being accepted, as a sentence without its subject; "" if nothing.

    `shares` 0..1: `learned`, and `learned_when_removed` where its cause was removed.
    """
    learned, removed = shares["learned"], shares.get("learned_when_removed")
    if group == "control":
        if learned < LEAST_CONTROL:
            return f"{learned:.2f} learned, below {LEAST_CONTROL:.2f}"
    elif learned > MOST_PLANTED:
        return f"{learned:.2f} learned with the cause, above {MOST_PLANTED:.2f}"
    elif removed is not None and removed < LEAST_REMOVED:
        return f"{removed:.2f} learned without the cause, below {LEAST_REMOVED:.2f}"
    return ""


def f1_of(cause: str, confusion: Mapping[str, Mapping[str, int]], scored: Collection[str]) -> float:
    """F1 0..1 of a cause over the control and the `scored` groups, 0 without any sample of it."""
    blamed = planted = hits = 0
    for group, causes in confusion.items():
        if group == "control" or group in scored:
            blamed += causes.get(cause, 0)
        if group == cause:
            planted, hits = sum(causes.values()), causes.get(cause, 0)
    return 2 * hits / (blamed + planted) if blamed + planted else 0.0
