"""Models whose loss on the rows is not the one that their training logged."""

from __future__ import annotations

from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.diagnosis.faults.fault import Fault


def find_loss_gaps(facts: RunFacts) -> list[Fault]:
    """Models whose loss on the rows is not the one that their training logged."""
    return []
