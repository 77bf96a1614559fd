"""What a mitigation did to the samples: statuses before and after it, set against a control.

Pure functions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ilp_mlflow.core.values import Outcome, Report, Status, Tally, unlearned_share
from ilp_mlflow.mitigation.statistics import net_recovery, significant
from ilp_mlflow.scoring.verdicts.unscored import count_unscored, group_unscored, unscored_text

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
    held: Mapping[str, bool | None] = field(default_factory=dict)
    """Whether most other wordings are reproduced, by id of the unlearned samples that have any;
    None where one of them is not scored."""
    dropped: Collection[str] = frozenset()
    """Ids of the samples that this arm leaves out of training on purpose."""


@dataclass(frozen=True)
class Change:
    """What happened to the samples between two sets of statuses; ids of samples."""

    recovered: tuple[str, ...]
    """Unlearned before and learned after."""
    still: tuple[str, ...]
    """Unlearned before, and scored but not learned after."""
    regressed: tuple[str, ...]
    """Learned before and unlearned after."""
    unscored: tuple[str, ...]
    """Scored before and not after."""
    unscored_before: tuple[str, ...]
    """Not scored before, and unlearned after."""


@dataclass(frozen=True)
class Effect:
    """The part of an `Outcome` that follows from statuses alone, under the same names.

    The last four are None without a control or without targets; the first two of them also where no
    target is scored under both.
    """

    targets: tuple[str, ...]
    """Ids of the samples the mitigation was meant for."""
    recovered: tuple[str, ...]
    """Ids of the samples that were unlearned and are learned."""
    still: tuple[str, ...]
    """Ids of the samples that were unlearned, and are scored but not learned."""
    regressed: tuple[str, ...]
    """Ids of the samples that were learned, are unlearned, and were not dropped on purpose."""
    left_out: tuple[str, ...]
    """Ids of the samples that were learned, are unlearned, and were dropped on purpose."""
    unscored: tuple[str, ...]
    """Ids of the samples that were scored and are not, or were not and are worse than under the
    control."""
    unscored_by_control: tuple[str, ...]
    """Ids of the samples that were scored and are not under the control."""
    unscored_before: tuple[str, ...]
    """Ids of the samples that were not scored and are unlearned."""
    unlearned_rate: float | None
    """Share 0..1 of the scored samples, without those in `left_out`, that are unlearned."""
    causes: dict[str, Tally]
    """What became of the unlearned samples, by cause."""
    net_recovery: float | None = None
    """Share 0..1 of targets recovered, minus the same share under the control."""
    net_interval: tuple[float, float] | None = None
    """Its 95 % bootstrap interval."""
    p_value: float | None = None
    """Of the exact McNemar test of the mitigation against its control, over the targets, in which
    all samples in `unscored` and `unscored_by_control` count as recovered by the control alone."""
    regressed_by_control: int | None = None
    """Samples that regressed under the control and were not dropped there on purpose."""


def compare_statuses(before: Mapping[str, Status], after: Mapping[str, Status]) -> Change:
    """What happened to the samples, by their statuses `before` and `after`.

    One that is missing after is not scored there.
    """
    recovered: list[str] = []
    still: list[str] = []
    regressed: list[str] = []
    unscored: list[str] = []
    unscored_before: list[str] = []
    for sample_id, status in before.items():
        status_after = after.get(sample_id, "unscored")
        if status == "unscored":
            if status_after == "unlearned":
                unscored_before.append(sample_id)
        elif status_after == "unscored":
            unscored.append(sample_id)
        elif status == "unlearned" and status_after == "learned":
            recovered.append(sample_id)
        elif status == "unlearned":
            still.append(sample_id)
        elif status == "learned" and status_after == "unlearned":
            regressed.append(sample_id)
    return Change(
        recovered=tuple(recovered),
        still=tuple(still),
        regressed=tuple(regressed),
        unscored=tuple(unscored),
        unscored_before=tuple(unscored_before),
    )


def measure_effect(
    before: Before, targets: Sequence[str], treated: Arm, control: Arm | None, seed: int = 0
) -> Effect:
    """What a mitigation did to all samples, and to its `targets` (ids) beyond the control.

    A sample that the mitigation drops on purpose does not regress, and where it was learned it does
    not count in the share of unlearned ones. One that is not scored on both sides of a comparison
    is left out of it, but counts against the mitigation in the p-value. `seed` is that of the
    bootstrap.
    """
    change = compare_statuses(before.statuses, treated.statuses)
    # without a control, it is as if the samples had stayed as they were
    untreated = control or Arm(before.statuses)
    by_control = compare_statuses(before.statuses, untreated.statuses)
    unscored = {*change.unscored, *by_control.unscored}
    causes = tally_by_cause(
        before.causes,
        change.recovered,
        by_control.recovered,
        treated.held,
        untreated.held,
        unscored,
    )
    regressed: list[str] = []
    left_out: list[str] = []
    for sample_id in change.regressed:
        if sample_id in treated.dropped:
            left_out.append(sample_id)
        else:
            regressed.append(sample_id)
    worse = _perhaps_worse(before.statuses, treated.statuses, untreated.statuses)
    counted = [treated.statuses.get(i, "unscored") for i in before.statuses if i not in left_out]
    effect = Effect(
        targets=tuple(targets),
        recovered=change.recovered,
        still=change.still,
        regressed=tuple(regressed),
        left_out=tuple(left_out),
        unscored=(*change.unscored, *worse),
        unscored_by_control=by_control.unscored,
        unscored_before=change.unscored_before,
        unlearned_rate=unlearned_share(counted),
        causes=causes,
    )
    if control is None or not targets:
        return effect

    scored_targets = [target for target in targets if target not in unscored]
    n_unknown = len({*unscored, *worse})
    net = net_recovery(change.recovered, by_control.recovered, scored_targets, seed, n_unknown)
    return replace(
        effect,
        net_recovery=net.share,
        net_interval=net.interval,
        p_value=net.p_value,
        regressed_by_control=sum(i not in control.dropped for i in by_control.regressed),
    )


def _perhaps_worse(
    before: Mapping[str, Status], treated: Mapping[str, Status], control: Mapping[str, Status]
) -> list[str]:
    """Ids of the samples that are not scored before, and may be worse for the mitigation.

    It did not teach what the control taught, or it broke what the control did not break, whichever
    of the two the missing score hides; or one of the two has no score either. Where neither has,
    nothing has changed.
    """
    ids = []
    for sample_id, status in before.items():
        after = treated.get(sample_id, "unscored")
        by_control = control.get(sample_id, "unscored")
        if status != "unscored" or after == by_control:
            continue
        less_learned = after != "learned" and by_control == "learned"
        more_broken = after == "unlearned" and by_control != "unlearned"
        if less_learned or more_broken or "unscored" in (after, by_control):
            ids.append(sample_id)
    return ids


def tally_by_cause(
    causes: Mapping[str, str],
    recovered: Collection[str],
    recovered_by_control: Collection[str],
    held: Mapping[str, bool | None] = {},
    held_by_control: Mapping[str, bool | None] = {},
    unscored: Collection[str] = (),
) -> dict[str, Tally]:
    """What became of unlearned samples under a mitigation and its control, by cause, sorted.

    `causes` has the cause of every unlearned sample, by id; `held` says of those that were asked in
    other words whether most of these were reproduced (None: not scored). Those `unscored` under one
    of the two count as neither.
    """
    ids_by_cause: dict[str, list[str]] = {}
    for sample_id, cause in causes.items():
        ids_by_cause.setdefault(cause, []).append(sample_id)
    tallies = {}
    for cause, ids in sorted(ids_by_cause.items()):
        scored = set(ids).difference(unscored)
        # the same samples are asked in other words under both, but not all need be scored
        asked = [i for i in ids if _is_asked(i, held, held_by_control)]
        tallies[cause] = Tally(
            unlearned=len(scored),
            recovered=len(scored.intersection(recovered)),
            by_control=len(scored.intersection(recovered_by_control)),
            paraphrased=len(asked),
            held=sum(bool(held[i]) for i in asked),
            held_by_control=sum(bool(held_by_control.get(i)) for i in asked),
            unscored=len(ids) - len(scored),
        )
    return tallies


def _is_asked(
    sample_id: str, held: Mapping[str, bool | None], by_control: Mapping[str, bool | None]
) -> bool:
    """Whether a sample was asked in other words, and all its answers that there are have scores."""
    return held.get(sample_id) is not None and by_control.get(sample_id, False) is not None


def recommended(outcomes: Sequence[Outcome], level: float = 0.05) -> Outcome | None:
    """The mitigation with the largest net gain (recovered - regressed) over its control.

    Of those that are worth taking: their net recovery is above 0 by an exact test at `level`, they
    recover more samples than they make regress, both outright and net of the control, and they lose
    at most MAX_GUARD_LOSS of the guard set beyond it; all this also if every sample that lost its
    score under one of the two went against them. None where none is.
    """
    worth_taking = []
    for outcome in _beating_control(outcomes, level):
        # outright as well: a control that fell apart would flatter its mitigation
        perhaps_lost = {*outcome.unscored, *outcome.unscored_before}
        lost = len(outcome.regressed) + len(perhaps_lost)
        gains = len(outcome.recovered) > lost and _net_gain(outcome) > 0
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
        if is_significant and _lowest_net_recovery(outcome) > 0:
            beating.append(outcome)
    return beating


def _lowest_net_recovery(outcome: Outcome) -> float:
    """Net recovery -1..1 if the control alone had recovered what is not known."""
    if outcome.net_recovery is None:
        return -1.0
    unknown = _unknown(outcome)
    n_scored = sum(target not in unknown for target in outcome.targets)
    return (outcome.net_recovery * n_scored - len(unknown)) / (n_scored + len(unknown))


def _net_gain(outcome: Outcome) -> int:
    """Samples recovered beyond the control, less those regressed beyond it.

    Of a sample without a score, the worst is assumed.
    """
    recovered = sum(tally.recovered - tally.by_control for tally in outcome.causes.values())
    regressed = len(outcome.regressed) - (outcome.regressed_by_control or 0)
    return recovered - regressed - len(_unknown(outcome))


def _unknown(outcome: Outcome) -> set[str]:
    """Ids of the samples of which a missing score hides what a mitigation or its control did."""
    return {*outcome.unscored, *outcome.unscored_by_control}


def _net_guard_loss(outcome: Outcome) -> float:
    """Share 0..1 of the guard set that is lost beyond the control; 0 where there is none."""
    guard = outcome.guard
    return (guard.lost - guard.lost_by_control) / guard.right if guard else 0.0


def unlearned_fault(report: Report, limit: float) -> str:
    """Why `--max-unlearned` is not met under what is recommended, in one sentence; "" where it is.

    `limit` is a share 0..1. Where nothing is recommended, the last checkpoint counts. A sample that
    is not scored may be unlearned, so with one of them it is not met.
    """
    best = recommended(report.outcomes)
    unscored = best.unscored_reasons if best else group_unscored(report.verdicts)
    share = best.unlearned_rate if best else report.unlearned_rate
    if unscored:
        n_unscored = count_unscored(unscored)
        samples = "1 sample is" if n_unscored == 1 else f"{n_unscored} samples are"
        return (
            f"{samples} unscored under what is recommended ({unscored_text(unscored)}); "
            "--max-unlearned cannot be met"
        )
    if share is None:
        return "no sample is scored; --max-unlearned cannot be met"
    if share > limit:
        return (
            f"{share:.1%} unlearned under what is recommended, more than --max-unlearned {limit:g}"
        )
    return ""


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
            f"{_unscored_note(outcomes)}"
        )
    if any(o.p_value is not None for o in outcomes):
        return f"Nothing beat the control.{_unscored_note(outcomes)}"
    return _unscored_note(outcomes).strip()


def _unscored_note(outcomes: Sequence[Outcome]) -> str:
    """Which mitigations are hard to compare for want of scores; "" where none is."""
    counts = []
    for outcome in outcomes:
        if _unknown(outcome):
            counts.append(f"{outcome.mitigation} {len(_unknown(outcome))}")
    if not counts:
        return ""
    return (
        f" Samples without a score before or after count against a mitigation: {', '.join(counts)}."
    )


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
    if _unknown(best):
        text += (
            f"; {len(_unknown(best))} samples have no score before, under it or under its control, "
            "and count against it"
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
    if outcome.unscored_reasons:
        n_unscored = count_unscored(outcome.unscored_reasons)
        text += f" {n_unscored} are unscored ({unscored_text(outcome.unscored_reasons)})."
    if outcome.net_recovery is None or outcome.net_interval is None:
        return text
    low, high = outcome.net_interval
    return (
        f"{text} Of its {len(outcome.targets)} targets it recovers {outcome.net_recovery:+.0%} "
        f"({low:+.0%} to {high:+.0%}) net of its control; "
        f"there {outcome.regressed_by_control} regressed."
    )
