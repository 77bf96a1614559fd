"""Name one cause for each unlearned sample, or none. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ilp_mlflow.types import Diagnosis, Evidence, Sample, Status, Verdict

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("sample_id", "cause", "status", "runner_up", "stage", "first_learned", "last_lost", "history", "reason")
"""Of the diagnosis table, before one column per cause."""
WEAK = 0.5
"""Evidence below this strength names no cause."""


def attribute(verdicts: Sequence[Verdict], evidence: Mapping[str, Mapping[str, Evidence]]) -> list[Diagnosis]:
    """A diagnosis for every unlearned sample: the strongest evidence names its cause, the next the runner-up.

    `evidence` is by diagnostic, then sample id. Equal strengths go to the diagnostic named first.
    """
    found = []
    for verdict in verdicts:
        if verdict.status != "unlearned":
            continue
        own = {name: by_id[verdict.sample_id] for name, by_id in evidence.items() if verdict.sample_id in by_id}
        ranked = sorted(own.values(), key=lambda e: -e.strength)
        causes = list(dict.fromkeys(e.cause for e in ranked if e.strength >= WEAK))
        cause, runner_up = (*causes, None, None)[:2]
        found.append(Diagnosis(verdict=verdict, cause=cause, runner_up=runner_up, evidence=own))
    return found


def cause_shares(diagnoses: Sequence[Diagnosis], total: int) -> dict[str, float]:
    """Share 0..1 of all `total` samples by cause; `unexplained` where none was named."""
    counts = Counter(d.cause or "unexplained" for d in diagnoses)
    return {cause: n / total for cause, n in sorted(counts.items())}


def history(statuses: Sequence[Status], checkpoints: Sequence[str]) -> str:
    """A sample's statuses in one line: + learned, - unlearned, ? uncertain, 0 unscored."""
    signs = {"learned": "+", "unlearned": "-", "uncertain": "?", "unscored": "0"}
    return " ".join(f"{name}{signs[status]}" for name, status in zip(checkpoints, statuses, strict=True))


def table(
    samples: Sequence[Sample],
    verdicts: Mapping[str, Verdict],
    histories: Mapping[str, Sequence[Status]],
    checkpoints: Sequence[str],
    diagnoses: Sequence[Diagnosis],
) -> pa.Table:
    """One row per sample, unlearned ones first, with its history and a column of strengths (0..1) per cause with evidence."""
    import pyarrow as pa

    by_id = {d.verdict.sample_id: d for d in diagnoses}
    causes = sorted({e.cause for d in diagnoses for e in d.evidence.values()})
    rows = []
    for sample in sorted(samples, key=lambda s: s.id not in by_id):
        found, own = by_id.get(sample.id), verdicts[sample.id]
        strengths = (
            {c: max((e.strength for e in found.evidence.values() if e.cause == c), default=None) for c in causes} if found else {}
        )
        rows.append(
            {
                "sample_id": sample.id,
                "cause": (found.cause or "unexplained") if found else None,
                "status": own.status,
                "runner_up": found.runner_up if found else None,
                "stage": sample.stage,
                "first_learned": own.first_learned,
                "last_lost": own.last_lost,
                "history": history(histories[sample.id], checkpoints),
                "reason": own.reason,
                **strengths,
            }
        )
    fields = [(name, pa.string()) for name in COLUMNS] + [(cause, pa.float64()) for cause in causes]
    return pa.Table.from_pylist(rows, schema=pa.schema(fields))
