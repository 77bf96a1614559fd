"""Samples that are not scored: how many, why, and when there is nothing left to say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ilp_mlflow.core.errors import ModelError
from ilp_mlflow.core.finite_scores import NOT_FINITE
from ilp_mlflow.core.values import Unscored, Verdict


def group_unscored(verdicts: Iterable[Verdict]) -> tuple[Unscored, ...]:
    """The unscored ones of `verdicts` by their reasons, the commonest first.

    Reasons that differ in numbers alone are of one kind, and the first of them stands for all.
    """
    by_kind: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.status == "unscored":
            by_kind.setdefault(re.sub(r"\d+", "0", verdict.reason), []).append(verdict)
    groups = []
    for of_kind in by_kind.values():
        first = of_kind[0]
        group = Unscored(samples=len(of_kind), reason=first.reason, example=first.sample_id)
        groups.append(group)
    return tuple(sorted(groups, key=lambda group: -group.samples))


def count_unscored(groups: Sequence[Unscored]) -> int:
    """Number of samples in `groups`."""
    return sum(group.samples for group in groups)


def unscored_text(groups: Sequence[Unscored]) -> str:
    """Why samples are unscored, in words: `such as 'x': the model's output is not a number`.

    With several reasons each comes with its number of samples.
    """
    if len(groups) == 1:
        return f"such as '{groups[0].example}': {groups[0].reason}"
    return "; ".join(f"{g.samples} such as '{g.example}': {g.reason}" for g in groups)


def check_any_scored(verdicts: Sequence[Verdict], checkpoint: str) -> None:
    """Raise ModelError where no sample is scored under the last checkpoint: nothing can be said."""
    groups = group_unscored(verdicts)
    if count_unscored(groups) < len(verdicts):
        return
    advice = "mend the rows, or choose another rule (scoring.preset, scoring.verdicts)"
    if groups[0].reason == NOT_FINITE:
        advice = "try scoring.dtype float32, or train it again with a lower learning rate"
    raise ModelError(
        f"none of {len(verdicts)} samples can be scored under checkpoint '{checkpoint}' "
        f"({unscored_text(groups)}): there is no verdict; {advice}"
    )
