"""Texts that training had in another form than the rows, or than they are asked in."""

from __future__ import annotations

from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.diagnosis.faults.fault import Fault


def find_text_faults(facts: RunFacts) -> list[Fault]:
    """Texts that training had in another form than the rows, or than they are asked in."""
    return []
