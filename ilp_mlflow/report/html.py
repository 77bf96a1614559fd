"""A report as one HTML page that needs nothing else: no network, no other file. Pure functions of what was found."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from ilp_mlflow.core.values import Diagnosis, Outcome, Report, Sample, last_turn
from ilp_mlflow.diagnosis.attribution import UNEXPLAINED
from ilp_mlflow.diagnosis.installed_causes import CauseInfo, installed_causes
from ilp_mlflow.mitigation.outcome import newcombe_interval, recommended
from ilp_mlflow.report import sample_browser, sankey
from ilp_mlflow.report.summary import (
    EXAMPLES,
    advice_sentences,
    best_mitigation,
    diagnoses_by_cause,
    leak_sentence,
    result_sentence,
    status_counts,
    unavailable_sentences,
)

UNEXPLAINED_MEANING = "no evidence was strong enough to name a cause"
"""What it means that a sample is `unexplained`."""
MEASURES = {
    "sum": "as it is",
    "mean": "per token",
    "corrected": "less its prior",
    "blank": "prompt blanked",
    "chance": "blind guess",
}
"""Measures of recognition, as the page names them."""
FATES = {
    "learned": "learned",
    "recovered": "learned again after a loss",
    "lost": "lost: learned before, unlearned now",
    "never learned": "never learned so far",
    "uncertain": "too close to call",
    "unscored": "not scored",
}
"""What became of samples, as the page names it."""
BINS = (0.5, 0.6, 0.7, 0.8, 0.9)
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
    """Samples by strength, see BINS."""
    runner_up: str
    """The commonest other cause and its samples, or ""."""
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


def render_html(found: Report, samples: Mapping[str, Sample]) -> str:
    """The report as one HTML page of less than 15 MB; every text from data is escaped. `samples` are by id."""
    from jinja2 import Environment
    from markupsafe import Markup, escape

    def part(suffix: str) -> Markup:
        return Markup(Path(__file__).with_name(f"report.{suffix}").read_text(encoding="utf-8"))

    def shown(value: Any) -> Any:
        return sample_browser.printable(value) if type(value) is str else value

    def words(name: str) -> Markup:
        return Markup("_<wbr>").join(
            map(escape, sample_browser.printable(name).split("_"))
        )  # a narrow page breaks it there

    page = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=shown
    ).from_string(part("html.j2"))
    diagnoses = diagnoses_by_cause(found)
    infos = {info.name: info for info in installed_causes()}
    infos[UNEXPLAINED] = CauseInfo(UNEXPLAINED, meaning=UNEXPLAINED_MEANING)
    names = list(dict.fromkeys([*(c for c in diagnoses if c != UNEXPLAINED), UNEXPLAINED]))
    tallied = [name for name in names if any(name in one.causes for one in found.outcomes)]
    data, listed = sample_browser.browser_data(found, samples, names)
    courses = sankey.courses(found.histories.values())
    stages = [(c.name, i) for i, c in enumerate(found.checkpoints) if "@" not in c.name]
    script, recovery = part("js"), _recovery(found, tallied)
    return page.render(
        report=found,
        style=part("css"),
        script=script,
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        sentence=result_sentence(found),
        counts=status_counts(found),
        advice=advice_sentences(found),
        unavailable=unavailable_sentences(found),
        leak=leak_sentence(found),
        measures=MEASURES,
        causes=[
            _cause(infos.get(name) or CauseInfo(name), own, len(found.diagnoses))
            for name, own in diagnoses.items()
        ],
        bins=BINS,
        fates=FATES,
        flow=sankey.figure(courses, stages) if len(stages) > 1 else None,
        courses={
            name: [sankey.counts(courses, i).get(name, 0) for i in range(len(found.checkpoints))]
            for name in sankey.ORDER
        },
        recovery=recovery,
        fixes={name: best for name in names if (best := best_mitigation(found, name))},
        tried=any(one.control_run_id for one in found.outcomes),
        names=tallied,
        unexplained=UNEXPLAINED,
        best=recommended(found.outcomes),
        cut=sample_browser.shorten,
        words=words,
        texts=lambda id_: (
            sample_browser.shorten(text, sample_browser.SHORT)
            for text in (last_turn(samples[id_].prompt), samples[id_].answer)
        ),
        spoken=Markup(json.dumps(FATES)),
        data=Markup(data),
        listed=listed,
    )


def _cause(info: CauseInfo, found: Sequence[Diagnosis], total: int) -> Cause:
    strengths = [d.strength for d in found if d.strength is not None]
    others = Counter(d.runner_up for d in found if d.runner_up).most_common(1)
    lower = [max(i for i, low in enumerate(BINS) if s >= low or i == 0) for s in strengths]
    return Cause(
        name=info.name,
        meaning=info.meaning,
        colour=info.colour,
        count=len(found),
        share=len(found) / total,
        median=median(strengths) if strengths else None,
        bins=tuple(lower.count(i) for i in range(len(BINS))) if strengths else (),
        runner_up=f"{others[0][0]} ({others[0][1]:,})" if others else "",
        examples=tuple(found[:EXAMPLES]),
    )


def _recovery(found: Report, names: Sequence[str]) -> list[tuple[Outcome, list[Cell | None]]]:
    """Mitigations, the one that helps its targets most first and those without a control last, with a cell for each of `names`."""
    of = {d.verdict.sample_id: d.cause or UNEXPLAINED for d in found.diagnoses}
    ordered = sorted(
        found.outcomes, key=lambda o: (o.net_recovery is None, -(o.net_recovery or 0.0))
    )
    return [
        (one, [_cell(one, name, Counter(of.get(t, "") for t in one.targets)) for name in names])
        for one in ordered
    ]


def _cell(one: Outcome, cause: str, targets: Mapping[str, int]) -> Cell | None:
    tally = one.causes.get(cause)
    if tally is None:
        return None
    if one.control_run_id is None:
        return Cell(
            tally.recovered / tally.unlearned, None, f"{tally.recovered} of {tally.unlearned}", 0
        )
    interval = newcombe_interval(tally.recovered, tally.by_control, tally.unlearned)
    return Cell(
        tally.net,
        interval,
        f"{tally.recovered} vs {tally.by_control} of {tally.unlearned}",
        targets.get(cause, 0),
    )
