"""Which mitigations to try in which combination, and one plan of them.

Chosen by how many samples each is for, what is expected of it, and what it costs. Pure functions of
plans.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ilp_mlflow.core.interfaces import Context, Mitigation
from ilp_mlflow.core.values import Plan, Request, Stage
from ilp_mlflow.data.matching import prompt_text
from ilp_mlflow.mitigation.plans import count_unchanged

DEFAULT_PRIOR = 0.5
"""Net recovery 0..1 expected of a mitigation that states no `prior` and was never tried."""
PRIOR_WEIGHT = 10
"""Targets of earlier trials that weigh as much as the prior."""
Planner = Callable[[str, Context], Plan | Request | None]
"""What the mitigation of a name plans in a context."""


@dataclass(frozen=True)
class Candidate:
    """A mitigation that could be tried."""

    name: str
    """Its plugin name."""
    cause: str
    """The cause of most of its targets."""
    targets: frozenset[str]
    """Ids of the samples it is for."""
    expected_recovery: float
    """Share 0..1 of the targets it is expected to recover, net of a control."""
    cost: float
    """Characters to be trained on, all passes."""
    merges: bool = False
    """It merges stages or has its own schedule: nothing can be done to a single stage after it."""
    drops: bool = False
    """It leaves out rows: what copies or adds rows comes after it."""

    @property
    def value(self) -> float:
        """Targets expected to be recovered, per million characters to be trained on."""
        return self.expected_recovery * len(self.targets) * 1e6 / max(1, self.cost)


def expected_recovery(plugin: Mitigation, past_trials: Sequence[tuple[int, float]]) -> float:
    """Net recovery 0..1 to expect of a mitigation.

    The mean of the plugin's `prior` and of the net recovery of earlier trials (pairs of number of
    targets, net recovery), weighted by targets; the prior counts as PRIOR_WEIGHT of them.
    """
    # `prior` is no part of the interface: a class of someone else's may lack it
    prior = getattr(plugin, "prior", DEFAULT_PRIOR)
    n_targets = sum(n for n, _ in past_trials)
    recovered = sum(n * net for n, net in past_trials)
    return float((PRIOR_WEIGHT * prior + recovered) / (PRIOR_WEIGHT + n_targets))


def as_candidate(
    name: str, plan: Plan, context: Context, causes: Mapping[str, str], expected: float
) -> Candidate:
    """A plan as a candidate; `causes` by id of the unlearned samples, `expected` net recovery."""
    # the stages before the first change are not trained again, so they cost nothing
    changed = plan.stages[count_unchanged(plan.stages, context.stages) :]
    return Candidate(
        name=name,
        cause=_main_cause(plan.targets, causes),
        targets=frozenset(plan.targets),
        expected_recovery=expected,
        cost=sum(map(_characters, changed)),
        merges=_merges(plan.stages, context.stages),
        drops=bool(plan.dropped),
    )


def _main_cause(targets: Sequence[str], causes: Mapping[str, str]) -> str:
    """The cause of most targets; of equals, the last by name."""
    counts = Counter(causes.get(i, "") for i in targets)
    return max(counts, key=lambda cause: (counts[cause], cause))


def _merges(stages: Sequence[Stage], before: Sequence[Stage]) -> bool:
    """Whether a stage of before is gone, or a stage has a schedule of its own."""
    names_before = {stage.name for stage in before}
    names_after = {stage.name for stage in stages}
    has_own_schedule = any(not isinstance(stage.schedule, str) for stage in stages)
    return has_own_schedule or not names_before <= names_after


def _characters(stage: Stage) -> float:
    """Characters a stage trains on, all passes."""
    characters = 0
    for row in stage.samples:
        characters += len(prompt_text(row.prompt)) + len(row.answer)
    return stage.visits * characters


def choose_mitigations(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those to combine: for one cause after the other, most samples first, the most valuable.

    A second one for a cause is taken where it has targets that no other has; of those that merge
    stages only the first.
    """
    ids_by_cause: dict[str, set[str]] = {}
    for candidate in candidates:
        ids_by_cause.setdefault(candidate.cause, set()).update(candidate.targets)
    chosen: list[Candidate] = []
    covered: set[str] = set()
    # of equal causes the first by name, so that the order of the plugins does not matter
    for cause in sorted(ids_by_cause, key=lambda c: (-len(ids_by_cause[c]), c)):
        for candidate in _best_first(candidates, cause):
            if _can_join(candidate, chosen) and not candidate.targets <= covered:
                chosen.append(candidate)
                covered |= candidate.targets
    return chosen


def next_combination(
    chosen: Sequence[Candidate],
    candidates: Sequence[Candidate],
    unlearned_by_cause: Mapping[str, int],
    tried_combinations: Sequence[frozenset[str]],
) -> list[Candidate] | None:
    """The combination to try after `chosen`: one cause gets another candidate for those it had.

    The cause with the most samples that are still unlearned comes first. None where every such
    combination was tried (`tried_combinations`, of names).
    """
    for cause in sorted(unlearned_by_cause, key=lambda c: (-unlearned_by_cause[c], c)):
        # sorted, so there is nothing left to recover of the causes behind this one either
        if not unlearned_by_cause[cause]:
            break
        for_other_causes = [candidate for candidate in chosen if candidate.cause != cause]
        for candidate in _best_first(candidates, cause):
            combination = [*for_other_causes, candidate]
            is_new = names_of(combination) not in tried_combinations
            if is_new and _can_join(candidate, for_other_causes):
                return combination
    return None


def names_of(combination: Sequence[Candidate]) -> frozenset[str]:
    """The names of the candidates in a combination, whatever their order."""
    return frozenset(candidate.name for candidate in combination)


def _best_first(candidates: Sequence[Candidate], cause: str) -> list[Candidate]:
    """The candidates for a cause, the most valuable first; equals by name."""
    for_cause = [candidate for candidate in candidates if candidate.cause == cause]
    return sorted(for_cause, key=lambda c: (-c.value, c.name))


def _can_join(candidate: Candidate, chosen: Sequence[Candidate]) -> bool:
    """Whether anything is expected of a candidate, and it can be combined with those chosen."""
    if candidate.value <= 0:
        return False
    return not (candidate.merges and any(c.merges for c in chosen))


def compose_plans(
    chosen: Sequence[Candidate], planner: Planner, context: Context
) -> tuple[tuple[str, ...], Plan]:
    """The names of the mitigations that have a plan, and one plan of all of them.

    Each plans on top of the one before; so do their controls, on top of each other.
    """
    treated, control = context, context
    names: list[str] = []
    # dicts for their order: what several plans target is targeted once
    targets: dict[str, None] = {}
    dropped: dict[str, None] = {}
    # rows are dropped before they are copied, and stages merged when all else is done to them
    for candidate in sorted(chosen, key=lambda c: (c.merges, not c.drops)):
        plan = planner(candidate.name, treated)
        plan_of_control = planner(candidate.name, control)
        if not isinstance(plan, Plan) or not isinstance(plan_of_control, Plan):
            continue
        names.append(candidate.name)
        targets |= dict.fromkeys(plan.targets)
        dropped |= dict.fromkeys(plan.dropped)
        treated = replace(treated, stages=plan.stages)
        # a plan without a control is set against the stages as they were
        if plan_of_control.control is not None:
            control = replace(control, stages=plan_of_control.control)
    composed = Plan(
        targets=tuple(targets),
        stages=tuple(treated.stages),
        control=tuple(control.stages),
        dropped=tuple(dropped),
    )
    return tuple(names), composed
