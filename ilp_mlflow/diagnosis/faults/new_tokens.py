"""Rows with tokens whose weights no training touched."""

from __future__ import annotations

from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.diagnosis.faults.fault import Fault


def find_untrained_tokens(facts: RunFacts) -> list[Fault]:
    """Rows with tokens whose weights no training touched."""
    return []
