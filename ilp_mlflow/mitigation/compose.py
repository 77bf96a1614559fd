"""Which mitigations to try, in which combination: by how many samples each is for, what is to be expected of it, and what it costs.

Pure functions of plans.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ilp_mlflow.core.interfaces import Context, Mitigation
from ilp_mlflow.core.values import Plan, Request, Stage
from ilp_mlflow.data.matching import prompt_text

PRIOR, WEIGHT = 0.5, 10
"""Net recovery 0..1 to be expected of a mitigation of which nothing is known, and how many targets that weighs as much as."""
Planner = Callable[[str, Context], Plan | Request | None]
"""What the mitigation of a name plans in a context."""


@dataclass(frozen=True)
class Candidate:
    """A mitigation that could be tried."""

    name: str
    cause: str
    """The cause of most of its targets."""
    targets: frozenset[str]
    """Ids."""
    value: float
    """Targets to be recovered, net of a control, per million characters to be trained on."""
    merges: bool
    """Its recipe has no place any more for something that is done to one of the stages."""
    drops: bool = False
    """It leaves out rows: what copies or adds rows comes after it."""


def expected_recovery(plugin: Mitigation, tried: Sequence[tuple[int, float]]) -> float:
    """Net recovery 0..1 to be expected: the plugin's own `prior`, and what it was in earlier trials (targets, net recovery)."""
    weight = WEIGHT + sum(n for n, _ in tried)
    return (WEIGHT * getattr(plugin, "prior", PRIOR) + sum(n * net for n, net in tried)) / weight


def as_candidate(
    name: str, plan: Plan, context: Context, causes: Mapping[str, str], expected: float
) -> Candidate:
    """A plan as a candidate; `causes` by sample id."""
    counts = Counter(causes.get(i, "") for i in plan.targets)
    kept = {s.name for s in plan.stages}
    merges = any(s.name not in kept for s in context.stages) or any(
        not isinstance(s.schedule, str) for s in plan.stages
    )
    cost = sum(map(_characters, plan.stages[_unchanged(plan.stages, context.stages) :]))
    value = expected * len(plan.targets) * 1e6 / max(1, cost)
    return Candidate(
        name,
        max(counts, key=lambda c: (counts[c], c)),
        frozenset(plan.targets),
        value,
        merges,
        bool(plan.dropped),
    )


def choose_mitigations(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those to combine: for one cause after the other, most samples first, the most valuable that has targets of its own.

    Of those that leave no place for others, only the first is taken.
    """
    counts = Counter[str]()
    for cause in {c.cause for c in candidates}:
        counts[cause] = len(
            frozenset[str]().union(*(c.targets for c in candidates if c.cause == cause))
        )
    chosen, covered = list[Candidate](), set[str]()
    for cause in sorted(counts, key=lambda c: (-counts[c], c)):
        for one in sorted(
            (c for c in candidates if c.cause == cause), key=lambda c: (-c.value, c.name)
        ):
            if (
                one.value <= 0
                or one.targets <= covered
                or (one.merges and any(c.merges for c in chosen))
            ):
                continue
            chosen.append(one)
            covered |= one.targets
    return chosen


def compose_plans(
    chosen: Sequence[Candidate], plan: Planner, context: Context
) -> tuple[tuple[str, ...], Plan]:
    """One plan of several, each made on top of the one before; its control likewise.

    Those that leave out rows come first, those that leave no place for others last. Returned with the names of those that had a
    plan there.
    """
    remedy, control, names = context, context, list[str]()
    targets, dropped = dict[str, None](), dict[str, None]()
    for one in sorted(chosen, key=lambda c: (c.merges, not c.drops)):
        mine, theirs = plan(one.name, remedy), plan(one.name, control)
        if not (isinstance(mine, Plan) and isinstance(theirs, Plan)):
            continue
        names.append(one.name)
        targets |= dict.fromkeys(mine.targets)
        dropped |= dict.fromkeys(mine.dropped)
        remedy = replace(remedy, stages=mine.stages)
        control = replace(
            control, stages=control.stages if theirs.control is None else theirs.control
        )
    stages, instead = tuple(remedy.stages), tuple(control.stages)
    return tuple(names), Plan(
        targets=tuple(targets), stages=stages, control=instead, dropped=tuple(dropped)
    )


def next_combination(
    chosen: Sequence[Candidate],
    candidates: Sequence[Candidate],
    left: Mapping[str, int],
    tried: Sequence[frozenset[str]],
) -> list[Candidate] | None:
    """The combination to try next: for the cause of which most samples are `left`, another candidate in place of the one it had.

    None where every such combination was `tried` (names).
    """
    for cause in sorted(left, key=lambda c: (-left[c], c)):
        kept = [c for c in chosen if c.cause != cause]
        for one in sorted(
            (c for c in candidates if c.cause == cause), key=lambda c: (-c.value, c.name)
        ):
            if one.value <= 0 or (one.merges and any(c.merges for c in kept)):
                continue
            found = [*kept, one]
            if left[cause] and frozenset(c.name for c in found) not in tried:
                return found
    return None


def _unchanged(stages: Sequence[Stage], before: Sequence[Stage]) -> int:
    return next(
        (n for n, (a, b) in enumerate(zip(stages, before, strict=False)) if a != b),
        min(len(stages), len(before)),
    )


def _characters(stage: Stage) -> float:
    """Characters a stage trains on, all passes."""
    return stage.visits * sum(len(prompt_text(s.prompt)) + len(s.answer) for s in stage.samples)
