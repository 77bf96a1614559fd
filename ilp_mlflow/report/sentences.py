"""What a report says in single sentences, and the counts behind them. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from ilp_mlflow.core.interfaces import MIN_TAUGHT_SHARE
from ilp_mlflow.core.values import Diagnosis, Finding, Outcome, Report, Subject, Tally, Unscored
from ilp_mlflow.diagnosis.attribution import NO_LEDGER_FACTOR, UNEXPLAINED
from ilp_mlflow.mitigation.outcome import recommendation_text
from ilp_mlflow.mitigation.statistics import newcombe_interval
from ilp_mlflow.scoring.verdicts.unscored import count_unscored, group_unscored, unscored_text
from ilp_mlflow.training.accounts.row_account import RowAccount

UNAVAILABLE = {
    "exposures": "No training ledger: a sample may never have been trained, or only in part, so "
    f"every other cause is given as {NO_LEDGER_FACTOR:g} times as sure.",
    "signals": "No training signals: whether the loss of a sample was still falling is not known, "
    "nor how to go on, so it is not tried whether a few more steps bring back what was forgotten.",
}
"""What is said of models trained elsewhere, by what their training did not leave behind."""

FEW_STEPS = 20
"""Below so many optimizer steps, the course of a loss tells little."""
MAX_CHANGES = 3
"""Changes that are told of one cause."""


class CauseMitigation(NamedTuple):
    """A mitigation, and what it did to the samples of one cause."""

    outcome: Outcome
    """The mitigation."""
    tally: Tally
    """The samples of the cause under it, and under its control."""


def percent(share: float | None) -> str:
    """A share 0..1 in whole percent, halves up; "-" where there is none."""
    if share is None:
        return "-"
    # Formatting rounds halves to even, and shares such as 7/40 lie a hair below theirs.
    return f"{share + 1e-9:.0%}"


def status_counts(report: Report) -> dict[str, int]:
    """Number of samples by status, in a fixed order."""
    counts = Counter(v.status for v in report.verdicts)
    return {status: counts[status] for status in ("learned", "unlearned", "uncertain", "unscored")}


def account_sentence(account: RowAccount) -> str:
    """What training made of one row, in one line."""
    parts = [
        f"{account.supervised_answer_tokens} of the {account.answer_tokens} tokens of its answer "
        f"in the loss, behind {account.prompt_tokens} tokens of prompt"
    ]
    if account.cut_tokens:
        parts.append(f"max_length cut {account.cut_tokens} tokens away")
    if account.weight_zero:
        unknown = ", if its trainer reads weights" if account.assumed else ""
        parts.append(f"its last turn has weight 0{unknown}")
    for text in account.dropped:
        parts.append(f"the chat template leaves out {text}")
    for text in account.added:
        parts.append(f"the chat template adds '{text}'")
    if account.end_token is None:
        parts.append("no token ends it")
    else:
        in_loss = "in the loss" if account.end_supervised else "in no loss"
        stops = "" if account.end_stops else ", and no end token of the model"
        parts.append(f"it ends with {account.end_token}, {in_loss}{stops}")
    return "; ".join(parts)


def change_sentences(diagnoses: Sequence[Diagnosis]) -> list[str]:
    """What mends the samples of one cause, each change once, that of the most samples first."""
    counts = Counter(diagnosis.change for diagnosis in diagnoses if diagnosis.change)
    sentences = []
    for change, number in counts.most_common(MAX_CHANGES):
        whom = "" if number == len(diagnoses) else f" {number} of them"
        sentences.append(f"to mend{whom or ' them'}: {change}")
    return sentences


def lost_by_stage(report: Report) -> dict[str, int]:
    """Number of samples that were learned and are unlearned now, by the stage that lost them.

    A sample that was lost at a step inside a stage was lost by that stage.
    """
    counts: Counter[str] = Counter()
    for verdict in report.verdicts:
        if verdict.status == "unlearned" and verdict.last_lost:
            # A step inside a stage is called stage@step.
            stage, _, _ = verdict.last_lost.partition("@")
            counts[stage] += 1
    return {c.name: counts[c.name] for c in report.checkpoints if counts[c.name]}


def diagnoses_by_cause(report: Report) -> dict[str, list[Diagnosis]]:
    """The diagnoses by cause, most frequent first and `unexplained` last.

    Those of one cause are the surest first, equals by id.
    """
    surest_first = sorted(
        report.diagnoses, key=lambda d: (-(d.strength or 0.0), d.verdict.sample_id)
    )
    by_cause: dict[str, list[Diagnosis]] = {}
    for diagnosis in surest_first:
        by_cause.setdefault(diagnosis.cause or UNEXPLAINED, []).append(diagnosis)

    def place(cause: str) -> tuple[bool, int, str]:
        return cause == UNEXPLAINED, -len(by_cause[cause]), cause

    return {cause: by_cause[cause] for cause in sorted(by_cause, key=place)}


def best_mitigation(report: Report, cause: str) -> CauseMitigation | None:
    """The mitigation with the largest net recovery of the samples of a cause.

    None where no mitigation has a 95 % interval of it (Newcombe's) that lies above 0.
    """
    candidates = []
    for outcome in report.outcomes:
        if not outcome.control_run_id or cause not in outcome.causes:
            continue
        tally = outcome.causes[cause]
        if not tally.unlearned:
            continue
        low, _ = newcombe_interval(tally.recovered, tally.by_control, tally.unlearned)
        # If every sample that is not scored had been recovered by the control alone.
        lowest = tally.recovered - tally.by_control - tally.unscored
        if low > 0 and lowest > 0:
            candidates.append(CauseMitigation(outcome, tally))
    # Of equals, the one that was tried first.
    return max(candidates, key=lambda candidate: candidate.tally.net or 0.0, default=None)


def has_controls(report: Report) -> bool:
    """Whether some mitigation was set against a control, so that it can be seen to help."""
    return any(outcome.control_run_id for outcome in report.outcomes)


def result_sentence(report: Report) -> str:
    """How many samples are unlearned in the end, and how many of them were learned before.

    The share is of the samples that are scored; how many are not is said, too.
    """
    unlearned = status_counts(report)["unlearned"]
    n_unscored = status_counts(report)["unscored"]
    total = len(report.verdicts)
    if n_unscored == total:
        return (
            f"None of {total} samples could be scored after {_last_stage(report)}: "
            "nothing is known of what was learned."
        )
    samples = f"{total - n_unscored} scored samples" if n_unscored else f"{total} samples"
    share = f"{unlearned} of {samples} ({unlearned / (total - n_unscored):.1%})"
    text = f"{share} are unlearned after {_last_stage(report)}"
    if n_unscored:
        text += f" and {n_unscored} could not be scored"
    lost = lost_by_stage(report)
    if lost:
        by_stage = ", ".join(f"{number} at {stage}" for stage, number in lost.items())
        return f"{text}; {sum(lost.values())} of them had been learned and were lost ({by_stage})."
    # Base and one stage alone have no checkpoint between them at which anything could be learned.
    if len(report.checkpoints) > 2:
        return f"{text}; none of them was learned at an earlier checkpoint."
    return f"{text}."


def _last_stage(report: Report) -> str:
    last = report.checkpoints[-1].name
    # a copy, or a model without rows here
    if last not in report.retention:
        return f"checkpoint '{last}'"
    if len(report.retention) > 1:
        return "the last stage"
    return f"stage '{last}'"


def unscored_sentences(report: Report) -> list[str]:
    """Why samples are not scored in the end, and under which checkpoints shares leave some out."""
    sentences = []
    groups = group_unscored(report.verdicts)
    if groups:
        sentences.append(
            f"{count_unscored(groups)} of {len(report.verdicts)} samples are unscored after "
            f"{_last_stage(report)} ({unscored_text(groups)}): they are neither learned nor "
            "unlearned, and in no share."
        )
    last = report.checkpoints[-1].name
    counts = []
    for checkpoint in report.checkpoints:
        n_unscored = sum(row.get(checkpoint.name, 0) for row in report.unscored_by_stage.values())
        if n_unscored and checkpoint.name != last:
            counts.append(f"{n_unscored} under {checkpoint.name}")
    if counts:
        sentences.append(f"Shares leave out samples that are not scored: {', '.join(counts)}.")
    return sentences


def unscored_kinds(report: Report) -> list[str]:
    """The reasons for which samples are not scored in the end, without any sample's id."""
    groups = group_unscored(report.verdicts)
    return [f"{group.samples} unscored: {group.reason}." for group in groups]


def leak_sentence(report: Report) -> str:
    """How far the options alone give the answer away; "" without options."""
    blank = report.recognition["blank"]
    chance = report.recognition["chance"]
    if not blank:
        return ""
    checkpoints = list(blank)
    first, last = checkpoints[0], checkpoints[-1]
    text = (
        f"With the prompt blanked, the right option wins for {blank[first]:.0%} of the samples "
        f"under {first} and {blank[last]:.0%} under {last} (a blind guess: {chance[first]:.0%})."
    )
    counts = []
    for checkpoint, n_unscored in report.recognition_unscored.items():
        if n_unscored:
            counts.append(f"{n_unscored} under {checkpoint}")
    if counts:
        text += f" Samples with options that are not scored are left out: {', '.join(counts)}."
    return text


def finding_sentence(finding: Finding) -> str:
    """What is true of a whole stage, checkpoint or run, and of how many samples it speaks.

    For example "Stage 'patch': changed nothing for any of its samples (12 unlearned samples)." What
    mends it, and that nothing else was looked for, stand behind.
    """
    text = f"{_subject_words(finding.subject)}: {finding.evidence.reason}"
    if finding.samples:
        samples = "sample" if finding.samples == 1 else "samples"
        text += f" ({finding.samples} unlearned {samples})"
    if finding.evidence.change:
        text += f"; {finding.evidence.change}"
    text += "."
    if finding.stops and finding.samples:
        text += " Nothing else is looked for in these samples."
    return text


def _subject_words(subject: Subject) -> str:
    if subject.kind == "run":
        return "The run"
    return f"{subject.kind.capitalize()} '{subject.name}'"


def finding_sentences(report: Report) -> list[str]:
    """A sentence for every finding about more than one sample."""
    return list(map(finding_sentence, report.findings))


def is_weak(taught: float | None) -> bool:
    """Whether a stage that taught this share 0..1 of its own samples taught little."""
    return taught is not None and taught < MIN_TAUGHT_SHARE


def weak_stage_sentences(report: Report) -> list[str]:
    """A sentence for every stage that taught little, where nothing graver is said of it."""
    sentences = []
    for stage, share_by_checkpoint in report.retention.items():
        share = share_by_checkpoint.get(stage)
        # a fault that explains its rows says itself what to change
        is_explained = any(
            finding.stops and finding.samples and finding.subject.name in (stage, "")
            for finding in report.findings
        )
        if is_weak(share) and not is_explained:
            sentences.append(
                f"Stage '{stage}' taught {_little(share)} of its own samples"
                f"{_why_weak(report, stage)}"
            )
    return sentences


def _little(share: float | None) -> str:
    """How few of its samples a stage taught."""
    return f"only {percent(share)}" if share else "none"


def _why_weak(report: Report, stage: str) -> str:
    """Why a stage taught little: a fault, its loss that was still falling, or that is not known."""
    if any(_is_fault_of(finding, stage) for finding in report.findings):
        return ": what was found about it comes first, before you read causes."
    course = report.loss_courses.get(stage)
    if course is None:
        return (
            ": whether its training was too short, at a wrong rate or on another text than these "
            "samples is not known; its log would tell (trainer_state.json in the model's folder or "
            "beside it)."
        )
    went = f"{course.before:.3g}, then {course.last:.3g} nats per token"
    if course.falls:
        # a rate that is too high makes a loss jump at once, and fall slowly from there
        longer = "train longer or at a higher rate" if course.from_start else "train longer"
        return (
            f", and its loss was still falling at the end ({went}): {longer} before you read "
            "causes."
        )
    if 0 < course.steps < FEW_STEPS:
        return (
            f": its training had only {course.steps} optimizer steps ({went}), too few to tell "
            "more; see what makes them so few (epochs, max_steps, batch size, "
            "gradient_accumulation_steps)."
        )
    if course.falls is None:
        return (
            ": whether its training was too short is not known, since too little of its loss was "
            f"logged ({went}); lower logging_steps."
        )
    return f", though its loss was hardly falling any more at the end ({went})."


def _is_fault_of(finding: Finding, stage: str) -> bool:
    """Whether a finding explains samples of a stage, or says that its log is not of these."""
    is_about = finding.subject.kind == "run" or finding.subject.name == stage
    explains = finding.samples > 0 or finding.kind == "scored_is_not_trained"
    return bool(finding.kind) and explains and is_about


def unavailable_sentences(report: Report) -> list[str]:
    """A sentence for everything that the diagnosis had to do without.

    What training left behind matters only where a cause was looked for: not where all is learned,
    or where faults that stop the diagnosis explain what is not.
    """
    unlearned = len(report.diagnoses)
    stopped = sum(finding.samples for finding in report.findings if finding.stops)
    sentences = []
    if unlearned > stopped:
        sentences += [UNAVAILABLE[name] for name in report.unavailable]
    if report.asked < unlearned:
        sentences.append(
            f"The models were asked about {report.asked} of the {unlearned} unlearned samples, "
            "drawn at random; of the others only what scores and ledger show is known. "
            "To ask about more, raise scoring.asked."
        )
    return sentences


def confirmation_sentences(report: Report) -> list[str]:
    """How many causes small trainings tried out, and what they said; none where none did."""
    tried = [d for d in report.diagnoses if d.confirmation]
    if not tried:
        return []
    counts: Counter[str] = Counter()
    corrected: Counter[tuple[str, str]] = Counter()
    for diagnosis in tried:
        if diagnosis.confirmation:
            counts[diagnosis.confirmation.verdict] += 1
            if diagnosis.confirmation.verdict == "corrected":
                before = diagnosis.confirmation.by_evidence or UNEXPLAINED
                corrected[before, diagnosis.cause or UNEXPLAINED] += 1
    text = (
        f"Causes were tried out in small trainings without them ({len(tried)} "
        f"sample{'' if len(tried) == 1 else 's'}): "
        f"{counts['confirmed']} confirmed, {counts['corrected']} corrected, "
        f"{counts['undecided']} undecided, where the evidence's cause stays."
    )
    if corrected:
        changes = []
        for (before, after), number in corrected.most_common():
            changes.append(f"{number} from {before} to {after}")
        text += f" Corrected: {', '.join(changes)}."
    return [text]


def mitigation_sentences(report: Report) -> list[str]:
    """Which mitigation to take, and why some were not tried."""
    sentences = []
    recommendation = recommendation_text(report.outcomes)
    if recommendation:
        sentences.append(recommendation)
    for name, request in report.requests.items():
        # What has samples it would be for lacks the data to help them.
        lack = "lacks data" if request.targets else "has nothing to do"
        sentences.append(f"{name} {lack}: {request.reason}.")
    return sentences


def advice_sentences(report: Report) -> list[str]:
    """What to do first: about stages that taught little, then about mitigations."""
    return [*weak_stage_sentences(report), *mitigation_sentences(report)]


def diagnosis_sentence(
    diagnoses: Sequence[Diagnosis], total: int, unscored: Sequence[Unscored] = ()
) -> str:
    """How many of `total` samples are unlearned, by cause, for the description of a run.

    The `unscored` ones among them are counted apart.
    """
    samples, note = f"{total} samples", ""
    if unscored:
        samples = f"{total - count_unscored(unscored)} scored samples"
        note = f" {count_unscored(unscored)} are unscored ({unscored_text(unscored)})."
    counts = Counter(d.cause or UNEXPLAINED for d in diagnoses).most_common()
    by_cause = ", ".join(f"{number} {cause}" for cause, number in counts)
    return f"{len(diagnoses)} of {samples} are unlearned.{note} {by_cause}".strip()
