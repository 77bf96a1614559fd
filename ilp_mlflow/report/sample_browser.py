"""The samples of a report as compact JSON, for the browser in its page. Pure functions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ilp_mlflow.core.values import Diagnosis, Evidence, Report, Sample, Status, last_turn
from ilp_mlflow.diagnosis.attribution import Fate, fate

FATES: tuple[Fate, ...] = ("never learned", "lost", "uncertain", "unscored", "recovered", "learned")
SIGNS: dict[Status, str] = {"learned": "+", "unlearned": "-", "uncertain": "?", "unscored": "0"}
FIRST: tuple[Status, ...] = ("unlearned", "uncertain", "unscored", "learned")
"""Order in which samples are listed, until the page is full."""
BYTES = 12_000_000
"""Of the listing, at most: the page around it and all is to stay below 15 MB."""
LONG, SHORT = 1000, 300
"""Characters of a text that are shown, of a sample that is not learned and of one that is."""
FAINT = 0.05
"""Evidence below this strength is not listed."""
OTHERS = 3
"""Other rows shown with evidence that names some, at most."""
CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def printable(text: str) -> str:
    """`text` with a visible sign in place of every character that no page can show."""
    return CONTROLS.sub("\ufffd", text)


def shorten(text: str, limit: int = LONG) -> str:
    """The beginning of `text`, and how many characters of it are left out."""
    text = text.strip()
    return printable(
        text
        if len(text) <= limit
        else f"{text[:limit]} ... ({len(text) - limit:,} more characters)"
    )


def browser_data(
    report: Report, samples: Mapping[str, Sample], causes: Sequence[str], limit: int = BYTES
) -> tuple[str, int]:
    """JSON of at most `limit` bytes that may stand in a script element, and how many samples it holds.

    Samples that are not learned come first. `samples` are by id, `causes` all that a sample may have, `unexplained` last.
    """
    stages = list(dict.fromkeys(s.stage for s in samples.values()))
    place = {stage: i for i, stage in enumerate(stages)}
    number = {cause: i for i, cause in enumerate(causes)}
    diagnoses = {d.verdict.sample_id: d for d in report.diagnoses}
    ended = {h: FATES.index(fate(h)) for h in set(report.histories.values())}
    signs = {h: "".join(SIGNS[status] for status in h) for h in ended}

    def shown(id_: str, size: int) -> list[Any]:
        one = samples[id_]
        return [
            shorten(last_turn(one.prompt), size),
            shorten(one.answer, size),
            place[one.stage],
            ended[report.histories[id_]],
        ]

    frame = {
        "stages": list(map(printable, stages)),
        "causes": causes,
        "fates": FATES,
        "checkpoints": [printable(c.name) for c in report.checkpoints],
    }
    rows: list[str] = []
    others: list[str] = []
    at: dict[str, int] = {}
    left = limit - len(_script(frame).encode()) - 100
    for verdict in sorted(report.verdicts, key=lambda v: FIRST.index(v.status)):
        id_, diagnosis = verdict.sample_id, diagnoses.get(verdict.sample_id)
        evidence = [(e, _others(e, samples)) for e in _ranked(diagnosis)] if diagnosis else []
        named = dict.fromkeys(o for _, found in evidence for o in found[:OTHERS])
        new = {o: _script([shorten(o), *shown(o, SHORT)]) for o in named if o not in at}
        at |= {o: len(at) + i for i, o in enumerate(new)}
        told = [
            [e.cause, round(e.strength, 3), shorten(e.reason), [at[o] for o in f[:OTHERS]], len(f)]
            for e, f in evidence
        ]
        row = _script(
            [
                shorten(id_),
                *shown(id_, SHORT if verdict.status == "learned" else LONG),
                signs[report.histories[id_]],
                printable(verdict.reason),
                None if verdict.margin is None else round(verdict.margin, 2),
                *(
                    [number[diagnosis.cause or causes[-1]], diagnosis.runner_up, told]
                    if diagnosis
                    else []
                ),
            ]
        )
        left -= sum(len(text.encode()) + 1 for text in (row, *new.values()))
        if left < 0:
            break
        rows.append(row)
        others += new.values()
    return f'{_script(frame)[:-1]},"rows":[{",".join(rows)}],"others":[{",".join(others)}]}}', len(
        rows
    )


def _ranked(diagnosis: Diagnosis) -> Iterator[Evidence]:
    """The evidence that is not faint: for the cause, for the runner-up, then the strongest."""
    heard = [e for e in diagnosis.evidence.values() if e.strength >= FAINT]
    yield from sorted(
        heard,
        key=lambda e: (e.cause != diagnosis.cause, e.cause != diagnosis.runner_up, -e.strength),
    )


def _others(evidence: Evidence, samples: Mapping[str, Sample]) -> list[str]:
    """Ids of the other rows that evidence names."""
    rows = evidence.details.get("rows")
    return (
        [row for row in rows if isinstance(row, str) and row in samples]
        if isinstance(rows, list)
        else []
    )


def _script(value: Any) -> str:
    """JSON that ends no script element, begins no comment in it, and is one line for every reader."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text
