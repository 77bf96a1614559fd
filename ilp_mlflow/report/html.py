"""A report as one HTML page that needs nothing else: no network, no other file. Pure functions."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from jinja2 import Environment, Template
from markupsafe import Markup

from ilp_mlflow.core.texts import last_turn
from ilp_mlflow.core.values import Diagnosis, Outcome, Report, Sample
from ilp_mlflow.diagnosis.attribution import UNEXPLAINED, Fate
from ilp_mlflow.diagnosis.installed_causes import CauseInfo, installed_causes
from ilp_mlflow.mitigation.outcome import recommended
from ilp_mlflow.mitigation.statistics import newcombe_interval
from ilp_mlflow.report import sample_browser, sankey
from ilp_mlflow.report.sentences import (
    CauseMitigation,
    advice_sentences,
    best_mitigation,
    change_sentences,
    confirmation_sentences,
    diagnoses_by_cause,
    finding_sentences,
    has_controls,
    leak_sentence,
    result_sentence,
    status_counts,
    unavailable_sentences,
    unscored_sentences,
)
from ilp_mlflow.report.summary import MAX_EXAMPLES
from ilp_mlflow.report.token_view import TokenView
from ilp_mlflow.report.verdict_sentences import rule_names, verdict_sentences
from ilp_mlflow.training.accounts.row_account import RowAccount

UNEXPLAINED_MEANING = "no evidence was strong enough to name a cause"
"""What it means that a sample is `unexplained`."""
MEASURE_WORDS = {
    "sum": "as it is",
    "mean": "per token",
    "corrected": "less its prior",
    "blank": "prompt blanked",
    "chance": "blind guess",
}
"""Measures of recognition, as the page names them."""
FATE_WORDS = {
    "learned": "learned",
    "recovered": "learned again after a loss",
    "lost": "lost: learned before, unlearned now",
    "never learned": "never learned so far",
    "uncertain": "too close to call",
    "unscored": "not scored",
}
"""What became of samples, as the page names it; tables show what is before the colon."""
STRENGTH_BINS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Lower ends of the classes of strength that are counted."""


@dataclass(frozen=True)
class Cause:
    """The samples of one cause, as the page shows them."""

    name: str
    """The cause."""
    meaning: str
    """In words, or ""."""
    colour: str
    """Of its bar, as CSS; "" for the usual one."""
    count: int
    """Its samples."""
    share: float
    """Of all unlearned ones, 0..1."""
    median: float | None
    """Of the strengths; None for what is unexplained."""
    bins: tuple[int, ...]
    """Samples by strength, see STRENGTH_BINS."""
    runner_up: str
    """The commonest other cause and its samples, or ""."""
    changes: tuple[str, ...]
    """What mends its samples, a sentence each."""
    examples: tuple[Diagnosis, ...]
    """The surest ones."""


@dataclass(frozen=True)
class Cell:
    """What one mitigation did to the samples of one cause."""

    share: float
    """Share -1..1 recovered, less the same share under the control where there is one."""
    interval: tuple[float, float] | None
    """Of that, 95 %; None without a control."""
    text: str
    """The counts, in words."""
    targets: int
    """Of these samples, those it was meant for."""


def render_html(
    report: Report,
    samples: Mapping[str, Sample],
    accounts: Mapping[str, RowAccount] = sample_browser.NO_ACCOUNTS,
    tokens: Mapping[str, Sequence[TokenView]] = sample_browser.NO_TOKENS,
) -> str:
    """The report as one HTML page of less than 15 MB; every text from data is escaped.

    `samples`, and the `accounts` and `tokens` of those that have some, are by id.
    """
    causes = _causes(report)
    cause_names = [cause.name for cause in causes]
    # A mitigation may tally what no diagnosis is any more.
    if UNEXPLAINED not in cause_names:
        cause_names.append(UNEXPLAINED)
    tallied_names = _tallied_causes(cause_names, report.outcomes)
    browser = sample_browser.browser_data(report, samples, cause_names, accounts, tokens=tokens)
    courses = sankey.count_courses(report.histories.values())
    script = _asset("js")
    return _template().render(
        report=report,
        style=_asset("css"),
        script=script,
        digest=_content_hash(script),
        # the first screen
        sentence=result_sentence(report),
        counts=status_counts(report),
        rules=" and ".join(rule_names(report)),
        unscored=[*unscored_sentences(report), *verdict_sentences(report)],
        findings=finding_sentences(report),
        causes=causes,
        fixes=_best_by_cause(report, cause_names),
        has_controls=has_controls(report),
        advice=advice_sentences(report),
        unexplained=UNEXPLAINED,
        # when it was learned, and lost
        flow=_flow(report, courses),
        courses=_fate_rows(report, courses),
        fates=FATE_WORDS,
        leak=leak_sentence(report),
        measures=MEASURE_WORDS,
        # why, and what helps
        bins=STRENGTH_BINS,
        example_texts=lambda id_: _example_texts(samples[id_]),
        tallied_causes=tallied_names,
        recovery=_recovery(report, tallied_names),
        recommended=recommended(report.outcomes),
        # samples and limits
        fate_words=Markup(json.dumps(FATE_WORDS)),
        samples_data=Markup(browser.text),
        listed_count=browser.listed,
        unavailable=unavailable_sentences(report),
        confirmations=confirmation_sentences(report),
        shorten=sample_browser.shorten,
        breakable=_breakable,
    )


@functools.cache
def _template() -> Template:
    """The page's template; every value it shows is escaped."""
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_finalize
    )
    return environment.from_string(_asset("html.j2"))


def _asset(suffix: str) -> Markup:
    path = Path(__file__).with_name(f"report.{suffix}")
    return Markup(path.read_text(encoding="utf-8"))


def _finalize(value: Any) -> Any:
    """What the template shows of a value: of plain text, what a page can show."""
    # Markup is a str, too, but not from data.
    return sample_browser.printable(value) if type(value) is str else value


def _content_hash(script: str) -> str:
    """By which the page's security policy knows the one script that may run."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _breakable(name: str) -> Markup:
    """A name that may break behind its underscores, on a narrow page."""
    # What is joined by Markup is escaped.
    return Markup("_<wbr>").join(sample_browser.printable(name).split("_"))


def _example_texts(sample: Sample) -> tuple[str, str]:
    """What is asked, and what the model should say."""
    limit = sample_browser.MAX_CHARACTERS_LEARNED
    prompt = sample_browser.shorten(last_turn(sample.prompt), limit)
    return prompt, sample_browser.shorten(sample.answer, limit)


def _causes(report: Report) -> list[Cause]:
    """The commonest first, `unexplained` last."""
    info_by_name = {info.name: info for info in installed_causes()}
    info_by_name[UNEXPLAINED] = CauseInfo(UNEXPLAINED, meaning=UNEXPLAINED_MEANING)
    causes = []
    for name, diagnoses in diagnoses_by_cause(report).items():
        # a plugin may have been removed since the diagnosis: its cause has its name only
        info = info_by_name.get(name, CauseInfo(name))
        causes.append(_cause(info, diagnoses, len(report.diagnoses)))
    return causes


def _cause(info: CauseInfo, diagnoses: Sequence[Diagnosis], unlearned: int) -> Cause:
    """`diagnoses` are those of the cause, the surest first, of `unlearned` ones."""
    strengths = [d.strength for d in diagnoses if d.strength is not None]
    return Cause(
        name=info.name,
        meaning=info.meaning,
        colour=info.colour,
        count=len(diagnoses),
        share=len(diagnoses) / unlearned,
        median=median(strengths) if strengths else None,
        bins=_bin_counts(strengths),
        runner_up=_commonest_runner_up(diagnoses),
        changes=tuple(change_sentences(diagnoses)),
        examples=tuple(diagnoses[:MAX_EXAMPLES]),
    )


def _bin_counts(strengths: Sequence[float]) -> tuple[int, ...]:
    """Number of strengths by bin; () where there are none."""
    if not strengths:
        return ()
    counts = [0] * len(STRENGTH_BINS)
    for strength in strengths:
        place = bisect_right(STRENGTH_BINS, strength) - 1
        # What is below the first bin is counted in it.
        counts[max(place, 0)] += 1
    return tuple(counts)


def _commonest_runner_up(diagnoses: Sequence[Diagnosis]) -> str:
    counts = Counter(d.runner_up for d in diagnoses if d.runner_up)
    if not counts:
        return ""
    ((name, number),) = counts.most_common(1)
    return f"{name} ({number:,})"


def _best_by_cause(report: Report, causes: Sequence[str]) -> dict[str, CauseMitigation]:
    best_by_cause = {}
    for cause in causes:
        best = best_mitigation(report, cause)
        if best:
            best_by_cause[cause] = best
    return best_by_cause


def _flow(report: Report, courses: Mapping[sankey.Course, int]) -> sankey.Figure | None:
    """How samples go from stage to stage; None where there is nothing to go to."""
    columns = []
    for place, checkpoint in enumerate(report.checkpoints):
        # Steps inside a stage are left out: the picture would be too wide.
        if "@" not in checkpoint.name:
            columns.append(sankey.Column(checkpoint.name, place))
    return sankey.lay_out(courses, columns) if len(columns) > 1 else None


def _fate_rows(report: Report, courses: Mapping[sankey.Course, int]) -> dict[Fate, list[int]]:
    """Number of samples by fate, under every checkpoint."""
    rows: dict[Fate, list[int]] = {name: [] for name in sankey.FATE_ORDER}
    for place in range(len(report.checkpoints)):
        counts = sankey.count_fates(courses, place)
        for name, row in rows.items():
            row.append(counts.get(name, 0))
    return rows


def _tallied_causes(causes: Sequence[str], outcomes: Sequence[Outcome]) -> list[str]:
    """Those of `causes` whose samples some mitigation was counted over."""
    tallied: set[str] = set()
    for outcome in outcomes:
        tallied.update(outcome.causes)
    return [cause for cause in causes if cause in tallied]


def _recovery(report: Report, causes: Sequence[str]) -> list[tuple[Outcome, list[Cell | None]]]:
    """Mitigations with a cell for each of `causes`.

    The one that helps its targets most comes first, those without a control last.
    """
    cause_by_id = {d.verdict.sample_id: d.cause or UNEXPLAINED for d in report.diagnoses}
    ordered = sorted(
        report.outcomes, key=lambda o: (o.net_recovery is None, -(o.net_recovery or 0.0))
    )
    rows = []
    for outcome in ordered:
        targets = Counter(cause_by_id.get(id_) for id_ in outcome.targets)
        rows.append((outcome, [_cell(outcome, cause, targets[cause]) for cause in causes]))
    return rows


def _cell(outcome: Outcome, cause: str, targets: int) -> Cell | None:
    """`targets` are the samples of the cause that the mitigation was meant for."""
    tally = outcome.causes.get(cause)
    if tally is None or tally.net is None:
        return None
    unscored = f", {tally.unscored} unscored" if tally.unscored else ""
    if outcome.control_run_id is None:
        # The control itself: there is nothing to set it against.
        share = tally.recovered / tally.unlearned
        return Cell(share, None, f"{tally.recovered} of {tally.unlearned}{unscored}", targets=0)
    interval = newcombe_interval(tally.recovered, tally.by_control, tally.unlearned)
    counts = f"{tally.recovered} vs {tally.by_control} of {tally.unlearned}{unscored}"
    return Cell(tally.net, interval, counts, targets)
