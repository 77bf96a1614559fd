"""Checkpoints whose weights are not what training made of them."""

from __future__ import annotations

from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.diagnosis.faults.fault import Fault


def find_weight_faults(facts: RunFacts) -> list[Fault]:
    """Checkpoints whose weights are not what training made of them."""
    return []
