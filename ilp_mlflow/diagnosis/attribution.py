"""Name one cause for each unlearned sample, or none. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from ilp_mlflow.core.values import Diagnosis, Evidence, Sample, Status, Verdict

if TYPE_CHECKING:
    import pyarrow as pa

Fate = Literal["never learned", "lost", "recovered", "learned", "uncertain", "unscored"]
"""What became of a sample: `lost` was learned before, `recovered` was lost before and is learned again."""
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
)
"""Of the diagnosis table, before one column per cause."""
TEXTS = {*TABLE_COLUMNS} - {"strength"}
WEAK_EVIDENCE = 0.5
"""Evidence below this strength names no cause."""
NO_LEDGER_FACTOR = 0.9
"""Factor on the strength of evidence where no ledger says how often each sample was trained."""
CAUSE_ORDER = (
    "not_trained",
    "data_contradiction",
    "left_side_forgetting",
    "insufficient_optimization",
    "knowledge_conflict",
    "missing_knowledge",
)
"""Of the causes: each is looked for in what those before it leave over.

What never reached the model says nothing about it. Contradicted samples were often right once, so they come before forgotten ones;
both were learnable, so both come before what the model knows; and that before what it believes or does not know.
"""


def attribute(
    verdicts: Sequence[Verdict],
    evidence: Mapping[str, Mapping[str, Evidence]],
    order: Sequence[str] = CAUSE_ORDER,
) -> list[Diagnosis]:
    """A diagnosis for every unlearned sample: the first cause in `order` with evidence that is not weak, and the next one.

    `evidence` is by diagnostic, then sample id. Other causes come behind those of `order`, the one with the strongest evidence
    first.
    """
    place = {cause: i for i, cause in enumerate(order)}
    found = []
    for verdict in verdicts:
        if verdict.status != "unlearned":
            continue
        own = {
            name: by_id[verdict.sample_id]
            for name, by_id in evidence.items()
            if verdict.sample_id in by_id
        }
        ranked = sorted(own.values(), key=lambda e: (place.get(e.cause, len(place)), -e.strength))
        by_cause = {e.cause: e for e in reversed(ranked) if e.strength >= WEAK_EVIDENCE}
        causes = list(dict.fromkeys(e.cause for e in ranked if e.cause in by_cause))
        cause, runner_up = (*causes, None, None)[:2]
        why = (
            {"strength": by_cause[cause].strength, "reason": by_cause[cause].reason}
            if cause
            else {}
        )
        found.append(
            Diagnosis(verdict=verdict, cause=cause, runner_up=runner_up, evidence=own, **why)
        )
    return found


def discount_without_ledger(
    evidence: Mapping[str, Mapping[str, Evidence]],
) -> dict[str, dict[str, Evidence]]:
    """The evidence (by diagnostic, then sample id) of models whose training kept no ledger: UNTRACED times as strong.

    Any sample may then be one that was never trained, whatever speaks for another cause. Evidence for `not_trained` stays as it is.
    """

    def weaker(found: Evidence) -> Evidence:
        return (
            found
            if found.cause == "not_trained"
            else found.model_copy(update={"strength": found.strength * NO_LEDGER_FACTOR})
        )

    return {
        name: {id_: weaker(found) for id_, found in by_id.items()}
        for name, by_id in evidence.items()
    }


def cause_shares(diagnoses: Sequence[Diagnosis], total: int) -> dict[str, float]:
    """Share 0..1 of all `total` samples by cause; `unexplained` where none was named."""
    counts = Counter(d.cause or UNEXPLAINED for d in diagnoses)
    return {cause: n / total for cause, n in sorted(counts.items())}


def fate(statuses: Sequence[Status]) -> Fate:
    """What became of a sample, by its statuses under checkpoints in order."""
    last = statuses[-1]
    if last == "uncertain" or last == "unscored":
        return last
    decided = [status == "learned" for status in statuses if status in ("learned", "unlearned")]
    if last == "unlearned":
        return "lost" if any(decided) else "never learned"
    return "recovered" if False in decided[decided.index(True) :] else "learned"


def history_line(statuses: Sequence[Status], checkpoints: Sequence[str]) -> str:
    """A sample's statuses in one line: + learned, - unlearned, ? uncertain, 0 unscored."""
    signs = {"learned": "+", "unlearned": "-", "uncertain": "?", "unscored": "0"}
    return " ".join(
        f"{name}{signs[status]}" for name, status in zip(checkpoints, statuses, strict=True)
    )


def diagnosis_table(
    samples: Sequence[Sample],
    verdicts: Mapping[str, Verdict],
    histories: Mapping[str, tuple[Status, ...]],
    checkpoints: Sequence[str],
    diagnoses: Sequence[Diagnosis],
) -> pa.Table:
    """One row per sample, unlearned ones first, with its history and a column of strengths (0..1) per cause with evidence."""
    import pyarrow as pa

    by_id = {d.verdict.sample_id: d for d in diagnoses}
    ordered = sorted(samples, key=lambda s: s.id not in by_id)
    judged = [verdicts[s.id] for s in ordered]
    found = [by_id.get(s.id) for s in ordered]
    lines = {statuses: history_line(statuses, checkpoints) for statuses in set(histories.values())}
    columns: dict[str, list[str | float | None]] = {
        "sample_id": [s.id for s in ordered],
        "cause": [(d.cause or UNEXPLAINED) if d else None for d in found],
        "status": [v.status for v in judged],
        "strength": [d.strength if d else None for d in found],
        "runner_up": [d.runner_up if d else None for d in found],
        "stage": [s.stage for s in ordered],
        "first_learned": [v.first_learned for v in judged],
        "last_lost": [v.last_lost for v in judged],
        "history": [lines[histories[s.id]] for s in ordered],
        "reason": [v.reason for v in judged],
        "why": [d.reason if d else None for d in found],
    }
    for cause in sorted({e.cause for d in diagnoses for e in d.evidence.values()}):
        strengths = (
            [e.strength for e in d.evidence.values() if e.cause == cause] if d else []
            for d in found
        )
        columns[cause] = [max(own, default=None) for own in strengths]
    return pa.table(
        columns,
        schema=pa.schema(
            [(name, pa.string() if name in TEXTS else pa.float64()) for name in columns]
        ),
    )
