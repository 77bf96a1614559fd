"""Trainings that did not get anywhere: rate, warm-up, gradients, overflow."""

from __future__ import annotations

from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.diagnosis.faults.fault import Fault


def find_optimization_faults(facts: RunFacts) -> list[Fault]:
    """Trainings that did not get anywhere: rate, warm-up, gradients, overflow."""
    return []
