"""One sample of a diagnosed run: what the model saw of it, and what came of it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow.compute as pc

from ilp_mlflow.core.errors import TrackingError
from ilp_mlflow.core.terminal.text import printable, wrap
from ilp_mlflow.core.value import Value
from ilp_mlflow.core.values import Exposure
from ilp_mlflow.report.token_view import TokenView, read_tokens, token_lines
from ilp_mlflow.tracking import runs
from ilp_mlflow.training.accounts.row_account import RowAccount, Segment

COLOURS = {"supervised": "green", "masked": "yellow", "cut": "red"}
"""Colour of a segment by its kind; a prompt has none."""
MARKS = {"supervised": ("[[", "]]"), "masked": ("((", "))"), "cut": ("{{", "}}")}
"""What stands around a segment where there are no colours."""
LEGEND = {
    "supervised": "in the loss",
    "masked": "of the answer, and in no loss",
    "cut": "cut off: the model never saw it",
}
"""What the kinds of segments are."""
NEAR_IDS = 3
"""Ids that are named in place of one that is not there."""
FACTS_INDENT = 11
"""Columns before a fact's text."""


class SampleView(Value):
    """What is known of one sample of a run."""

    account: RowAccount
    """What training made of it."""
    exposures: tuple[Exposure, ...] | None = None
    """What the ledger counted; None without one."""
    status: str | None = None
    """Its verdict under the last checkpoint."""
    verdict: str = ""
    """The verdict in a sentence."""
    history: str = ""
    """Its verdict under every checkpoint."""
    cause: str | None = None
    """Why it is unlearned; None for a sample that is not."""
    strength: float | None = None
    """How sure of the cause, 0..1."""
    reason: str = ""
    """The evidence for the cause in a sentence."""
    change: str = ""
    """What mends it; "" where that is not known."""
    confirmation: str = ""
    """What small trainings without one cause showed; "" where there were none."""
    knowledge: str | None = None
    """What the base knows of its answer, one of SliCK's classes; None where it was not asked."""
    tokens: tuple[TokenView, ...] = ()
    """The tokens of its answer; none where it is not scored."""


def read_view(run_id: str, sample_id: str) -> SampleView:
    """What a run has of a sample.

    Raises TrackingError when the run has not been diagnosed, or has no such sample.
    """
    accounts = runs.read_table(run_id, "accounts.parquet")
    found = accounts.filter(pc.equal(accounts["sample_id"], sample_id)).to_pylist()
    if not found:
        known = accounts["sample_id"].to_pylist()
        raise TrackingError(f"run {run_id} has no sample '{sample_id}'; {_near(sample_id, known)}")
    view: dict[str, Any] = {"account": found[0], "exposures": _exposures(run_id, sample_id)}
    view["tokens"] = read_tokens(run_id, [sample_id]).get(sample_id, ())
    diagnosis = runs.read_table(run_id, "diagnosis.parquet")
    for row in diagnosis.filter(pc.equal(diagnosis["sample_id"], sample_id)).to_pylist():
        view.update(
            status=row["status"],
            verdict=row["reason"] or "",
            history=row["history"] or "",
            cause=row["cause"],
            strength=row["strength"],
            reason=row["why"] or "",
            change=row["change"] or "",
            confirmation=row["confirmation"] or "",
            knowledge=row["knowledge"],
        )
    return SampleView.model_validate(view)


def _exposures(run_id: str, sample_id: str) -> list[dict[str, Any]] | None:
    """What the ledger counted of a sample; None where training left no ledger."""
    if not runs.has(run_id, "exposures.parquet"):
        return None
    table = runs.read_table(run_id, "exposures.parquet")
    rows: list[dict[str, Any]] = table.filter(pc.equal(table["sample_id"], sample_id)).to_pylist()
    return rows


def _near(sample_id: str, known: Sequence[str]) -> str:
    """The ids that may have been meant, or the first ones where none is near."""
    close = difflib.get_close_matches(sample_id, known, n=NEAR_IDS)
    if close:
        return f"did you mean {' or '.join(repr(name) for name in close)}?"
    return f"it has {len(known)}, such as {', '.join(repr(name) for name in known[:NEAR_IDS])}"


def view_lines(view: SampleView, paint: Callable[[str, str], str], coloured: bool) -> list[str]:
    """A sample as lines for a terminal; `paint` gives a text a colour where it is `coloured`."""
    kinds = {segment.kind for segment in view.account.segments}
    lines = ["This is what the model saw:", ""]
    for kind, meaning in LEGEND.items():
        if kind in kinds:
            lines.append(f"  {_marked('text', kind, paint, coloured)} {meaning}")
    return [
        *lines,
        "",
        *_rendered(view.account.segments, paint, coloured).split("\n"),
        "",
        *token_lines(view.tokens, paint, coloured),
        *_fact_lines(view),
    ]


def _rendered(segments: Sequence[Segment], paint: Callable[[str, str], str], coloured: bool) -> str:
    """The text that the model saw, with what is no prompt marked."""
    parts = []
    for segment in segments:
        parts.append(_marked(printable(segment.text), segment.kind, paint, coloured))
    return "".join(parts)


def _marked(text: str, kind: str, paint: Callable[[str, str], str], coloured: bool) -> str:
    """A text as one of its kind: in its colour, or between its marks."""
    if kind not in MARKS or not text:
        return text
    if coloured:
        return paint(text, COLOURS[kind])
    opening, closing = MARKS[kind]
    return f"{opening}{text}{closing}"


def _fact_lines(view: SampleView) -> list[str]:
    lines: list[str] = []
    for name, texts in _facts(view).items():
        for text in texts:
            lines += wrap(f"{name:<{FACTS_INDENT}}{text}", hang=FACTS_INDENT)
    return lines


def _facts(view: SampleView) -> Mapping[str, Sequence[str]]:
    """What is known beside the text, by a word."""
    account = view.account
    facts = {
        "sample": [account.sample_id],
        "tokens": [
            f"{account.prompt_tokens} of prompt, {account.answer_tokens} of answer; "
            f"{account.supervised_tokens} in the loss, "
            f"{account.supervised_answer_tokens} of them the answer's"
        ],
        "cut": [f"{account.cut_tokens} tokens"] if account.cut_tokens else [],
        "dropped": [f"{text} (nowhere in the text above)" for text in account.dropped],
        "added": [f"{text!r} (by the template; not in the row)" for text in account.added],
        "end": [_end_sentence(account)],
        "weight": [_weight_sentence(account)] if account.weight_zero else [],
        "trained": _exposure_sentences(view.exposures),
        "verdict": [text for text in (view.status, view.verdict) if text],
        "history": [view.history] if view.history else [],
        "cause": _cause(view),
        "reason": [view.reason] if view.reason else [],
        "change": [view.change] if view.change else [],
        "tried out": [view.confirmation] if view.confirmation else [],
        "base knows": [f"the answer: {view.knowledge} (SliCK)"] if view.knowledge else [],
    }
    return facts


def _weight_sentence(account: RowAccount) -> str:
    sentence = "0: the row takes its answer out of the loss"
    unknown = "; unknown whether its trainer read that: the training left no ledger"
    return sentence + (unknown if account.assumed else "")


def _end_sentence(account: RowAccount) -> str:
    if account.end_token is None:
        return "no token ends the answer"
    in_loss = "in the loss" if account.end_supervised else "not in the loss"
    stops = "the model stops at it" if account.end_stops else "no end token of the model"
    return f"{account.end_token}: {in_loss}; {stops}"


def _exposure_sentences(exposures: Sequence[Exposure] | None) -> list[str]:
    """How often a sample was trained, by stage."""
    if exposures is None:
        return ["not known: the training left no ledger"]
    if not exposures:
        return ["never: it was in no batch"]
    sentences = []
    for exposure in exposures:
        times = "once" if exposure.exposures == 1 else f"{exposure.exposures} times"
        sentences.append(
            f"{times} in stage '{exposure.stage}', {exposure.supervised_tokens} tokens in the loss "
            "each time"
        )
    return sentences


def _cause(view: SampleView) -> list[str]:
    if view.cause is None:
        return []
    return [view.cause if view.strength is None else f"{view.cause} ({view.strength:.2f})"]
