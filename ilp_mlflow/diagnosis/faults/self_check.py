"""Checkpoints that are not scored as plain separate passes score them."""

from __future__ import annotations

from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.diagnosis.faults.fault import Fault


def find_scoring_gaps(facts: RunFacts) -> list[Fault]:
    """Checkpoints that are not scored as plain separate passes score them."""
    return []
