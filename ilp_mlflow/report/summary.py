"""A report as tables for the terminal, as Markdown, and in one sentence. Pure functions of what was found."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

from ilp_mlflow.core.interfaces import MIN_TAUGHT_SHARE
from ilp_mlflow.core.terminal import format_table, wrap
from ilp_mlflow.core.values import Diagnosis, Outcome, Report, Tally
from ilp_mlflow.diagnosis.attribution import NO_LEDGER_FACTOR, UNEXPLAINED
from ilp_mlflow.mitigation.outcome import recommendation_text
from ilp_mlflow.mitigation.statistics import newcombe_interval

EXAMPLES = 2
"""Samples shown for every cause, in the terminal and in the table of the HTML report."""
UNAVAILABLE = {
    "exposures": "No training ledger: a sample may never have been trained, or only in part, so every other cause is given as "
    f"{NO_LEDGER_FACTOR:g} times as sure.",
    "signals": "No training signals: whether the loss of a sample was still falling is not known, nor how to go on, so it is "
    "not tried whether a few more steps bring back what was forgotten.",
}
"""What is said of models that were trained elsewhere, by what their training did not leave behind."""
OUTCOMES = {
    "recovered": "unlearned before, learned now",
    "held": "of the unlearned ones, those that most other wordings bring out",
    "regressed": "learned before, unlearned now",
    "lost": "of what the base knows and of held-out rows",
    "net": "targets recovered, less those under the control (95 % interval)",
}
"""What is counted of a mitigation, and what it means."""


def percent(share: float) -> str:
    """A share 0..1 in whole percent, halves up."""
    return f"{share + 1e-9:.0%}"


def status_counts(report: Report) -> dict[str, int]:
    """Number of samples by status, in a fixed order."""
    found = Counter(v.status for v in report.verdicts)
    return {status: found[status] for status in ("learned", "unlearned", "uncertain", "unscored")}


def lost_by_stage(report: Report) -> dict[str, int]:
    """Number of samples that were learned and are unlearned now, by the stage that lost them, at its end or a step inside."""
    found = Counter(
        v.last_lost.split("@")[0]
        for v in report.verdicts
        if v.status == "unlearned" and v.last_lost
    )
    return {c.name: found[c.name] for c in report.checkpoints if found[c.name]}


def result_sentence(report: Report) -> str:
    """The result in one sentence."""
    number, total = status_counts(report)["unlearned"], len(report.verdicts)
    last = (
        "the last stage" if len(report.retention) > 1 else f"stage '{next(iter(report.retention))}'"
    )
    text = f"{number} of {total} samples ({number / total:.1%}) are unlearned after {last}"
    gone = lost_by_stage(report)
    if not gone:
        return (
            f"{text}; none of them was learned at an earlier checkpoint."
            if len(report.checkpoints) > 2
            else f"{text}."
        )
    by = ", ".join(f"{n} at {name}" for name, n in gone.items())
    return f"{text}; {sum(gone.values())} of them had been learned and were lost ({by})."


def diagnoses_by_cause(report: Report) -> dict[str, list[Diagnosis]]:
    """The diagnoses by cause, most frequent first and `unexplained` last; the surest first, equals by id."""
    found: dict[str, list[Diagnosis]] = {}
    for diagnosis in sorted(
        report.diagnoses, key=lambda d: (-(d.strength or 0.0), d.verdict.sample_id)
    ):
        found.setdefault(diagnosis.cause or UNEXPLAINED, []).append(diagnosis)
    return dict(
        sorted(found.items(), key=lambda item: (item[0] == UNEXPLAINED, -len(item[1]), item[0]))
    )


def best_mitigation(report: Report, cause: str) -> tuple[Outcome, Tally] | None:
    """The mitigation that recovers most samples of a cause beyond its control, of those whose 95 % interval is above 0."""
    tallies = [
        (o, o.causes[cause]) for o in report.outcomes if o.control_run_id and cause in o.causes
    ]
    sure = [
        (o, t)
        for o, t in tallies
        if newcombe_interval(t.recovered, t.by_control, t.unlearned)[0] > 0
    ]
    return max(sure, key=lambda one: one[1].net, default=None)


def leak_sentence(report: Report) -> str:
    """How far the options alone give the answer away, in one sentence; "" without options."""
    blank, chance = report.recognition["blank"], report.recognition["chance"]
    if not blank:
        return ""
    first, last = next(iter(blank)), list(blank)[-1]
    return (
        f"With the prompt blanked, the right option wins for {blank[first]:.0%} of the samples under {first} and "
        f"{blank[last]:.0%} under {last} (a blind guess: {chance[first]:.0%})."
    )


def weak_stage_sentences(report: Report) -> list[str]:
    """A sentence for every stage that taught little."""
    taught = {stage: row[stage] for stage, row in report.retention.items() if stage in row}
    return [
        f"Stage '{stage}' taught only {percent(share)} of its own samples: that is training too short or too weak rather than "
        "something about single samples, so train longer or at a higher rate before you read causes."
        for stage, share in taught.items()
        if share < MIN_TAUGHT_SHARE
    ]


def unavailable_sentences(report: Report) -> list[str]:
    """A sentence for everything that the diagnosis had to do without."""
    missing = [UNAVAILABLE[name] for name in report.unavailable]
    if report.asked < len(report.diagnoses):
        missing.append(
            f"The models were asked about {report.asked} of the {len(report.diagnoses)} unlearned samples, drawn at random; of the "
            "others only what scores and ledger show is known. To ask about more, raise scoring.asked."
        )
    return missing


def advice_sentences(report: Report) -> list[str]:
    """What to do first: about stages that taught little, the recommended mitigation, and why others were not tried."""
    idle = {True: "lacks data", False: "has nothing to do"}
    lacking = [
        f"{name} {idle[bool(request.targets)]}: {request.reason}."
        for name, request in report.requests.items()
    ]
    return [
        text
        for text in (*weak_stage_sentences(report), recommendation_text(report.outcomes), *lacking)
        if text
    ]


def terminal_summary(
    report: Report, paint: Callable[[str, str], str] = lambda text, colour: text
) -> str:
    """Verdict table, retention matrix, causes with examples, leak and outcomes as text that fits 80 columns.

    `paint` gives text a colour: the verdict and the causes.
    """
    verdict = [paint(line, "cyan") for line in wrap(result_sentence(report))]
    lines = [*verdict, "", f"samples by status: {_counted(report)}"]
    for left in [v for v in report.verdicts if v.status == "unscored"][:EXAMPLES]:
        lines += wrap(f"unscored: {left.sample_id}: {left.reason}", 2, 2, max_lines=3)
    lines += ["", *format_table(_matrix(report))]
    early = [
        *weak_stage_sentences(report),
        *unavailable_sentences(report),
    ]  # before the causes that depend on it
    for text in early:
        lines += ["", *wrap(text)]
    for cause, found in diagnoses_by_cause(report).items():
        head, *more = wrap(f"{cause}: {len(found)} of {len(report.diagnoses)} unlearned samples")
        lines += [
            "",
            paint(cause, "yellow") + head.removeprefix(cause) if head.startswith(cause) else head,
            *more,
        ]
        for one in found[:EXAMPLES]:
            sure = "" if one.strength is None else f" ({one.strength:.2f})"
            lines += wrap(
                f"{one.verdict.sample_id}{sure}: {one.reason or one.verdict.reason}",
                2,
                2,
                max_lines=6,
            )
    if leak_sentence(report):
        lines += ["", *wrap(leak_sentence(report))]
    if report.outcomes:
        lines += ["", *format_table([["mitigation", *OUTCOMES], *_outcome_rows(report)])]
    for text in (one for one in advice_sentences(report) if one not in early):
        lines += ["", *wrap(text)]
    return "\n".join(lines)


def markdown_summary(report: Report) -> str:
    """The result as Markdown, for the description of the run: how many, why and what to do, and a table of each."""
    found = diagnoses_by_cause(report)
    named = [f"{len(own)} are {cause}" for cause, own in found.items()]
    why = f"By cause, {', '.join(named)}." if named else ""
    first = " ".join(
        text
        for text in (result_sentence(report), why, recommendation_text(report.outcomes))
        if text
    )
    reasons = [["cause", "samples", "most recovered (by its control)"]]
    reasons += [
        [cause, str(len(own)), _most_recovered(report, cause)] for cause, own in found.items()
    ]
    judged = f"{_counted(report)} by the `{report.preset}` rule. Learned, by stage and checkpoint:"
    where = "Every sample: `ilp/report.html` (read), `ilp/diagnosis.json` (table), `ilp/diagnosis.parquet` (all columns)."
    parts = [
        first,
        _markdown_table(reasons) if found else "",
        judged,
        _markdown_table(_matrix(report)),
        *weak_stage_sentences(report),
        *unavailable_sentences(report),
        leak_sentence(report),
        where,
    ]
    return "\n\n".join(part for part in parts if part)


def diagnosis_sentence(found: Sequence[Diagnosis], total: int) -> str:
    """A diagnosis of `total` samples in one sentence, for the description of its run."""
    counted = Counter(d.cause or UNEXPLAINED for d in found).most_common()
    return f"{len(found)} of {total} samples are unlearned. {', '.join(f'{n} {cause}' for cause, n in counted)}".strip()


def _most_recovered(report: Report, cause: str) -> str:
    """The mitigation that helps most with a cause, and the counts."""
    if best := best_mitigation(report, cause):
        return f"{best[0].mitigation} {best[1].recovered} ({best[1].by_control})"
    return "none" if any(one.control_run_id for one in report.outcomes) else "-"


def issue_markdown(report: Report) -> str:
    """What others need to know of a run, as Markdown for an issue: versions, counts, causes, settings; no sample's text."""
    versions = ", ".join(f"{name} {number}" for name, number in report.versions.items())
    tables = [_markdown_table(_matrix(report))]
    if report.outcomes:
        tables.append(_markdown_table([["mitigation", *OUTCOMES], *_outcome_rows(report)]))
    why = "\n".join(
        f"- {cause}: {len(found)}" for cause, found in diagnoses_by_cause(report).items()
    )
    # file names without the folders they lie in, which tell whose machine it is
    shown = re.sub(r"(?<![\w.:/])(?:file://)?/(?:[^/\s'\"]+/)+", "", report.settings.strip())
    settings = f"<details><summary>settings</summary>\n\n```yaml\n{shown}\n```\n\n</details>"
    judged = f"{_counted(report)} by the `{report.preset}` rule."
    parts = [
        f"**ilp run `{report.name}`**: {result_sentence(report)}",
        versions,
        judged,
        *tables,
        *weak_stage_sentences(report),
        *unavailable_sentences(report),
        why,
        settings,
    ]
    return "\n\n".join(part for part in parts if part)


def _markdown_table(rows: list[list[str]]) -> str:
    header, *body = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *body))


def _counted(report: Report) -> str:
    return ", ".join(f"{n} {status}" for status, n in status_counts(report).items())


def _matrix(report: Report) -> list[list[str]]:
    """Header and rows: share learned by stage (row) and stage checkpoint (column)."""
    names = [c.name for c in report.checkpoints if "@" not in c.name]
    return [
        ["learned, % of", *names],
        *([s, *(percent(row[n]) for n in names)] for s, row in report.retention.items()),
    ]


def _outcome_rows(report: Report) -> list[list[str]]:
    def net(value: float | None, interval: tuple[float, float] | None) -> str:
        return (
            "-"
            if value is None or interval is None
            else f"{value:+.0%} ({interval[0]:+.0%} to {interval[1]:+.0%})"
        )

    def row(one: Outcome) -> list[str]:
        asked = any(t.paraphrased for t in one.causes.values())
        held = str(sum(t.held for t in one.causes.values())) if asked else "-"
        lost = str(one.guard.lost) if one.guard else "-"
        counts = [str(len(one.recovered)), held, str(len(one.regressed)), lost]
        return [one.mitigation, *counts, net(one.net_recovery, one.net_interval)]

    return [row(one) for one in report.outcomes]
