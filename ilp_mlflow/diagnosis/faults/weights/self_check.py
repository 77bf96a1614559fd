"""Checkpoints that are not scored as plain separate passes score them."""

from __future__ import annotations

from ilp_mlflow.core.values import Subject
from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.diagnosis.faults.fault import Fault


def find_scoring_gaps(facts: RunFacts) -> list[Fault]:
    """Checkpoints whose scores are not those of plain passes: nothing can be said of their rows."""
    faults = []
    for check in facts.self_checks:
        if check.agrees:
            continue
        faults.append(
            Fault(
                kind="scores_not_reproduced",
                cause="faulty_checkpoint",
                reason=(
                    "scores of the fast path and of plain passes differ by "
                    f"{check.largest_difference:.2g} nats per token in {check.dtype} "
                    f"({check.allowed:.2g} are rounding; {len(check.rows)} rows were scored both "
                    "ways)"
                ),
                change="score it in float32 (dtype: float32), and report the model's type",
                subject=Subject(kind="checkpoint", name=check.checkpoint),
                samples=_unlearned_under(check.checkpoint, facts),
                stops=True,
            )
        )
    return faults


def _unlearned_under(checkpoint: str, facts: RunFacts) -> tuple[str, ...]:
    """Ids of the unlearned samples that were so under a checkpoint, too: its own scores say so."""
    names = [c.name for c in facts.context.checkpoints]
    place = names.index(checkpoint)
    ids = []
    for id_ in facts.unlearned:
        if facts.context.histories[id_][place] == "unlearned":
            ids.append(id_)
    return tuple(ids)
