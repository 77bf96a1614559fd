"""Rows that crowd others out, and held-out rows among the trained."""

from __future__ import annotations

from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.diagnosis.faults.fault import Fault


def find_row_faults(facts: RunFacts) -> list[Fault]:
    """Rows that crowd others out, and held-out rows among the trained."""
    return []
