"""Name one cause for each unlearned sample, or none. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeVar

from ilp_mlflow.core.interfaces import Diagnostic
from ilp_mlflow.core.values import Diagnosis, Evidence, Sample, Status, Verdict

if TYPE_CHECKING:
    import pyarrow as pa

K = TypeVar("K")
Fate = Literal["never learned", "lost", "recovered", "learned", "uncertain", "unscored"]
"""What became of a sample.

`lost` was learned before, `recovered` was lost before and is learned again.
"""
UNEXPLAINED = "unexplained"
"""What is said where no cause is."""
TABLE_COLUMNS = (
    "sample_id",
    "cause",
    "status",
    "strength",
    "runner_up",
    "stage",
    "first_learned",
    "last_lost",
    "history",
    "reason",
    "why",
    "change",
    "confirmation",
    "knowledge",
)
"""Columns of the diagnosis table, before one column per cause; all but `strength` hold text."""
HISTORY_SIGNS: dict[Status, str] = {
    "learned": "+",
    "unlearned": "-",
    "uncertain": "?",
    "unscored": "0",
}
"""How a status is written in a history of one line."""
WEAK_EVIDENCE = 0.5
"""Evidence below this strength names no cause."""
NO_LEDGER_FACTOR = 0.9
"""Factor on the strength of evidence where no ledger says how often each sample was trained."""


def attribute(
    verdicts: Sequence[Verdict],
    evidence: Mapping[str, Mapping[str, Evidence]],
    order: Mapping[str, int],
    named_from: float = WEAK_EVIDENCE,
) -> list[Diagnosis]:
    """A diagnosis for every unlearned sample: the first cause with evidence that is not weak.

    Weak is evidence below WEAK_EVIDENCE, and below `named_from` where its strength is a probability
    read off the labs.

    Evidence about a sample alone goes before what is said of its stage, its checkpoint or the run.
    `evidence` is by diagnostic, then sample id; `order` by diagnostic, and so by the cause of its
    name. Evidence for a cause that no diagnostic is named after has the order of the diagnostic
    that found it. Causes of one order go by their strongest evidence.
    """
    diagnoses = []
    for verdict in verdicts:
        if verdict.status == "unlearned":
            speaking = {}
            for name, evidence_by_id in evidence.items():
                if verdict.sample_id in evidence_by_id:
                    speaking[name] = evidence_by_id[verdict.sample_id]
            diagnoses.append(_diagnosis(verdict, speaking, order, named_from))
    return diagnoses


def _diagnosis(
    verdict: Verdict, evidence: dict[str, Evidence], order: Mapping[str, int], named_from: float
) -> Diagnosis:
    """The diagnosis of one sample by its `evidence`, which is by diagnostic."""

    def rank(name: str) -> tuple[bool, int, float]:
        place = order.get(evidence[name].cause, order.get(name, Diagnostic.order))
        return evidence[name].subject is not None, place, -evidence[name].strength

    # By cause, first cause first: weak evidence names none, however early its cause comes.
    strongest: dict[str, Evidence] = {}
    for name in sorted(evidence, key=rank):
        if not _is_weak(evidence[name], named_from):
            strongest.setdefault(evidence[name].cause, evidence[name])
    if not strongest:
        return Diagnosis(verdict=verdict, evidence=evidence)
    cause, *others = strongest
    return Diagnosis(
        verdict=verdict,
        cause=cause,
        strength=strongest[cause].strength,
        reason=strongest[cause].reason,
        change=strongest[cause].change,
        runner_up=others[0] if others else None,
        evidence=evidence,
    )


def _is_weak(evidence: Evidence, named_from: float) -> bool:
    """Whether evidence names no cause: for lack of a signal, or of probability in the labs."""
    if evidence.signal is None:
        return evidence.strength < WEAK_EVIDENCE
    return evidence.signal < WEAK_EVIDENCE or evidence.strength < named_from


def discount_without_ledger(
    evidence: Mapping[str, Mapping[K, Evidence]],
) -> dict[str, dict[K, Evidence]]:
    """The evidence of models whose training kept no ledger: NO_LEDGER_FACTOR times as strong.

    Any sample may then be one that was never trained, whatever speaks for another cause. So
    evidence for `not_trained` stays as it is. `evidence` is by diagnostic, then by what it is for.
    """
    discounted: dict[str, dict[K, Evidence]] = {}
    for name, evidence_by_key in evidence.items():
        discounted[name] = {}
        for key, value in evidence_by_key.items():
            if value.cause != "not_trained":
                strength = value.strength * NO_LEDGER_FACTOR
                value = value.model_copy(update={"strength": strength})
            discounted[name][key] = value
    return discounted


def cause_shares(diagnoses: Sequence[Diagnosis], total: int) -> dict[str, float]:
    """Share 0..1 of all `total` samples by cause; `unexplained` where none was named."""
    counts = Counter(d.cause or UNEXPLAINED for d in diagnoses)
    return {cause: n / total for cause, n in sorted(counts.items())}


def fate(statuses: Sequence[Status]) -> Fate:
    """What became of a sample, by its statuses under checkpoints in order."""
    last = statuses[-1]
    if last == "uncertain" or last == "unscored":
        return last
    decided = [status for status in statuses if status in ("learned", "unlearned")]
    if last == "unlearned":
        return "lost" if "learned" in decided else "never learned"
    since_learned = decided[decided.index("learned") :]
    return "recovered" if "unlearned" in since_learned else "learned"


def history_line(statuses: Sequence[Status], checkpoints: Sequence[str]) -> str:
    """A sample's statuses in one line: + learned, - unlearned, ? uncertain, 0 unscored."""
    steps = []
    for name, status in zip(checkpoints, statuses, strict=True):
        steps.append(f"{name}{HISTORY_SIGNS[status]}")
    return " ".join(steps)


def diagnosis_table(
    samples: Sequence[Sample],
    verdicts: Mapping[str, Verdict],
    histories: Mapping[str, tuple[Status, ...]],
    checkpoints: Sequence[str],
    diagnoses: Sequence[Diagnosis],
) -> pa.Table:
    """One row per sample, unlearned ones first: the columns TABLE_COLUMNS, then one per cause.

    A column of a cause holds the strength 0..1 of the evidence for it, null where there is none.
    """
    import pyarrow as pa

    diagnosis_by_id = {d.verdict.sample_id: d for d in diagnoses}
    # Few histories occur, in many samples: each is written once.
    lines = {statuses: history_line(statuses, checkpoints) for statuses in set(histories.values())}
    causes: set[str] = set()
    rows = []
    for sample in sorted(samples, key=lambda s: s.id not in diagnosis_by_id):
        verdict = verdicts[sample.id]
        row: dict[str, str | float | None] = {
            "sample_id": sample.id,
            "status": verdict.status,
            "stage": sample.stage,
            "first_learned": verdict.first_learned,
            "last_lost": verdict.last_lost,
            "history": lines[histories[sample.id]],
            "reason": verdict.reason,
        }
        diagnosis = diagnosis_by_id.get(sample.id)
        if diagnosis:
            strengths = _strongest_by_cause(diagnosis)
            causes.update(strengths)
            row.update(strengths)
            row["cause"] = diagnosis.cause or UNEXPLAINED
            row["strength"] = diagnosis.strength
            row["runner_up"] = diagnosis.runner_up
            row["why"] = diagnosis.reason
            row["change"] = diagnosis.change
            if diagnosis.confirmation:
                row["confirmation"] = diagnosis.confirmation.sentence
            row["knowledge"] = _knowledge(diagnosis)
        rows.append(row)
    columns = [pa.field(name, pa.string()) for name in TABLE_COLUMNS]
    columns[TABLE_COLUMNS.index("strength")] = pa.field("strength", pa.float64())
    columns += [pa.field(cause, pa.float64()) for cause in sorted(causes)]
    # A row without a column, such as a learned sample without a cause, has null there.
    return pa.Table.from_pylist(rows, schema=pa.schema(columns))


def _knowledge(diagnosis: Diagnosis) -> str | None:
    """What the base knows of a sample's own answer, one of SliCK's classes; None: not asked."""
    classes = [evidence.details.get("knowledge") for evidence in diagnosis.evidence.values()]
    return next((text for text in classes if isinstance(text, str)), None)


def _strongest_by_cause(diagnosis: Diagnosis) -> dict[str, float]:
    """The strength of the strongest evidence for each cause."""
    strengths: dict[str, float] = {}
    for evidence in diagnosis.evidence.values():
        strengths[evidence.cause] = max(evidence.strength, strengths.get(evidence.cause, 0.0))
    return strengths
