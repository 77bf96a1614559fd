"""What a mitigation did to the samples: statuses before and after it, set against a control.

Pure functions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ilp_mlflow.core.values import Outcome, Status, Tally
from ilp_mlflow.mitigation.statistics import net_recovery, significant

MAX_GUARD_LOSS = 0.02
"""Share 0..1 of the guard set that a recommended mitigation loses beyond its control, at most."""
MAX_TOKEN_RATIO = 1.2
"""Tokens of a mitigation as a multiple of its control's, above which a recommendation says so."""


@dataclass(frozen=True)
class Before:
    """The samples before a trial."""

    statuses: Mapping[str, Status]
    """Status of every sample, by id."""
    causes: Mapping[str, str]
    """Diagnosed cause of every unlearned sample, by id."""


@dataclass(frozen=True)
class Arm:
    """The samples after one arm of a trial: the mitigation, or its control."""

    statuses: Mapping[str, Status]
    """Status of every sample, by id."""
    held: Mapping[str, bool] = field(default_factory=dict)
    """Whether most other wordings are reproduced, by id of the unlearned samples that have any."""
    dropped: Collection[str] = frozenset()
    """Ids of the samples that this arm leaves out of training on purpose."""


@dataclass(frozen=True)
class Change:
    """What happened to the samples between two sets of statuses; ids of samples."""

    recovered: tuple[str, ...]
    """Unlearned before and learned after."""
    still: tuple[str, ...]
    """Unlearned before and not learned after."""
    regressed: tuple[str, ...]
    """Learned before and unlearned after."""


@dataclass(frozen=True)
class Effect:
    """The part of an `Outcome` that follows from statuses alone, under the same names.

    The last four are None without a control or without targets.
    """

    targets: tuple[str, ...]
    """Ids of the samples the mitigation was meant for."""
    recovered: tuple[str, ...]
    """Ids of the samples that were unlearned and are learned."""
    still: tuple[str, ...]
    """Ids of the samples that were unlearned and are not learned."""
    regressed: tuple[str, ...]
    """Ids of the samples that were learned, are unlearned, and were not dropped on purpose."""
    left_out: tuple[str, ...]
    """Ids of the samples that were learned, are unlearned, and were dropped on purpose."""
    unlearned_rate: float
    """Share 0..1 of all samples, without those in `left_out`, that are unlearned."""
    causes: dict[str, Tally]
    """What became of the unlearned samples, by cause."""
    net_recovery: float | None = None
    """Share 0..1 of targets recovered, minus the same share under the control."""
    net_interval: tuple[float, float] | None = None
    """Its 95 % bootstrap interval."""
    p_value: float | None = None
    """Of the exact McNemar test of the mitigation against its control, over the targets."""
    regressed_by_control: int | None = None
    """Samples that regressed under the control and were not dropped there on purpose."""


def compare_statuses(before: Mapping[str, Status], after: Mapping[str, Status]) -> Change:
    """What happened to the samples, by their statuses `before` and `after`."""
    recovered: list[str] = []
    still: list[str] = []
    regressed: list[str] = []
    for sample_id, status in before.items():
        if status == "unlearned" and after[sample_id] == "learned":
            recovered.append(sample_id)
        elif status == "unlearned":
            still.append(sample_id)
        elif status == "learned" and after[sample_id] == "unlearned":
            regressed.append(sample_id)
    return Change(tuple(recovered), tuple(still), tuple(regressed))


def measure_effect(
    before: Before, targets: Sequence[str], treated: Arm, control: Arm | None, seed: int = 0
) -> Effect:
    """What a mitigation did to all samples, and to its `targets` (ids) beyond the control.

    A sample that the mitigation drops on purpose does not regress, and where it was learned it does
    not count in the share of unlearned ones. `seed` is that of the bootstrap.
    """
    change = compare_statuses(before.statuses, treated.statuses)
    # without a control, it is as if the samples had stayed as they were
    untreated = control or Arm(before.statuses)
    by_control = compare_statuses(before.statuses, untreated.statuses)
    causes = tally_by_cause(
        before.causes, change.recovered, by_control.recovered, treated.held, untreated.held
    )
    regressed: list[str] = []
    left_out: list[str] = []
    for sample_id in change.regressed:
        if sample_id in treated.dropped:
            left_out.append(sample_id)
        else:
            regressed.append(sample_id)
    statuses = list(treated.statuses.values())
    n_unlearned = statuses.count("unlearned") - len(left_out)
    n_counted = len(statuses) - len(left_out)
    effect = Effect(
        targets=tuple(targets),
        recovered=change.recovered,
        still=change.still,
        regressed=tuple(regressed),
        left_out=tuple(left_out),
        unlearned_rate=n_unlearned / max(1, n_counted),
        causes=causes,
    )
    if control is None or not targets:
        return effect

    net = net_recovery(change.recovered, by_control.recovered, targets, seed)
    return replace(
        effect,
        net_recovery=net.share,
        net_interval=net.interval,
        p_value=net.p_value,
        regressed_by_control=sum(i not in control.dropped for i in by_control.regressed),
    )


def tally_by_cause(
    causes: Mapping[str, str],
    recovered: Collection[str],
    recovered_by_control: Collection[str],
    held: Mapping[str, bool] = {},
    held_by_control: Mapping[str, bool] = {},
) -> dict[str, Tally]:
    """What became of unlearned samples under a mitigation and its control, by cause, sorted.

    `causes` has the cause of every unlearned sample, by id; `held` says of those that were asked in
    other words whether most of these were reproduced.
    """
    ids_by_cause: dict[str, list[str]] = {}
    for sample_id, cause in causes.items():
        ids_by_cause.setdefault(cause, []).append(sample_id)
    tallies = {}
    for cause, ids in sorted(ids_by_cause.items()):
        tallies[cause] = Tally(
            unlearned=len(ids),
            recovered=len(set(recovered).intersection(ids)),
            by_control=len(set(recovered_by_control).intersection(ids)),
            # the same samples are asked in other words under both
            paraphrased=len(held.keys() & set(ids)),
            held=sum(held.get(i, False) for i in ids),
            held_by_control=sum(held_by_control.get(i, False) for i in ids),
        )
    return tallies


def recommended(outcomes: Sequence[Outcome], level: float = 0.05) -> Outcome | None:
    """The mitigation with the largest net gain (recovered - regressed) over its control.

    Of those that are worth taking: their net recovery is above 0 by an exact test at `level`, they
    recover more samples than they make regress, both outright and net of the control, and they lose
    at most MAX_GUARD_LOSS of the guard set beyond it. None where none is.
    """
    worth_taking = []
    for outcome in _beating_control(outcomes, level):
        # outright as well: a control that fell apart would flatter its mitigation
        gains = len(outcome.recovered) > len(outcome.regressed) and _net_gain(outcome) > 0
        if gains and _net_guard_loss(outcome) <= MAX_GUARD_LOSS:
            worth_taking.append(outcome)
    return max(worth_taking, key=lambda o: (_net_gain(o), o.mitigation), default=None)


def _beating_control(outcomes: Sequence[Outcome], level: float) -> list[Outcome]:
    """Those whose net recovery is above 0, by tests at `level` corrected for their number."""
    tested = [o for o in outcomes if o.p_value is not None and o.targets]
    tested.sort(key=lambda outcome: outcome.p_value or 0.0)
    beating = []
    # the test is two-sided: a mitigation that is worse than its control is significant, too
    p_values = [outcome.p_value or 0.0 for outcome in tested]
    for outcome, is_significant in zip(tested, significant(p_values, level), strict=True):
        if is_significant and outcome.net_recovery is not None and outcome.net_recovery > 0:
            beating.append(outcome)
    return beating


def _net_gain(outcome: Outcome) -> int:
    """Samples recovered beyond the control, less those regressed beyond it."""
    recovered = sum(tally.recovered - tally.by_control for tally in outcome.causes.values())
    regressed = len(outcome.regressed) - (outcome.regressed_by_control or 0)
    return recovered - regressed


def _net_guard_loss(outcome: Outcome) -> float:
    """Share 0..1 of the guard set that is lost beyond the control; 0 where there is none."""
    guard = outcome.guard
    return (guard.lost - guard.lost_by_control) / guard.right if guard else 0.0


def recommendation_text(outcomes: Sequence[Outcome], level: float = 0.05) -> str:
    """Which mitigation to take and why, or that none is worth it, in one sentence.

    "" where nothing was tried against a control.
    """
    best = recommended(outcomes, level)
    if best is not None:
        return _describe_best(best)
    beating = _beating_control(outcomes, level)
    if beating:
        names = ", ".join(f"{o.mitigation} ({o.net_recovery:+.0%} of its targets)" for o in beating)
        return (
            "Nothing is worth taking: what beats its control makes as many samples regress as it "
            f"recovers, or loses more than {MAX_GUARD_LOSS:.0%} of what was to stay: {names}."
        )
    if any(o.p_value is not None for o in outcomes):
        return "Nothing beat the control."
    return ""


def _describe_best(best: Outcome) -> str:
    """What speaks for the recommended mitigation, and what against it."""
    name = f"{best.mitigation} ({', '.join(best.combines)})" if best.combines else best.mitigation
    text = (
        f"Take {name}: net of its control it recovers {best.net_recovery:.0%} of its "
        f"{len(best.targets)} targets (p = {best.p_value:.2g}); in all, {_net_gain(best)} "
        "more samples are learned than under its control"
    )
    paraphrased = [tally for tally in best.causes.values() if tally.paraphrased]
    if paraphrased:
        n_held = sum(tally.held - tally.held_by_control for tally in paraphrased)
        text += f", and {n_held} more hold in other words"
    if best.guard:
        text += (
            f"; of {best.guard.right} answers that were to stay it loses {best.guard.lost}, "
            f"its control {best.guard.lost_by_control}"
        )
    if best.control_tokens and best.tokens > MAX_TOKEN_RATIO * best.control_tokens:
        text += (
            f"; it trains on {best.tokens / best.control_tokens:.1f} times the tokens of its "
            "control, so part of that may be more training alone"
        )
    return f"{text}."


def outcome_sentence(outcome: Outcome) -> str:
    """What came of a mitigation in a sentence or two, for the description of its run."""
    n_unlearned = len(outcome.recovered) + len(outcome.still)
    text = (
        f"{len(outcome.recovered)} of {n_unlearned} unlearned samples are learned now, "
        f"{len(outcome.regressed)} learned ones regressed."
    )
    if outcome.net_recovery is None or outcome.net_interval is None:
        return text
    low, high = outcome.net_interval
    return (
        f"{text} Of its {len(outcome.targets)} targets it recovers {outcome.net_recovery:+.0%} "
        f"({low:+.0%} to {high:+.0%}) net of its control; "
        f"there {outcome.regressed_by_control} regressed."
    )
