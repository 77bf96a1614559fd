"""What the ledger says of a whole stage: rows it lost, steps that were thrown away."""

from __future__ import annotations

from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.diagnosis.faults.fault import Fault


def find_exposure_faults(facts: RunFacts) -> list[Fault]:
    """What the ledger says of a whole stage: rows it lost, steps that were thrown away."""
    return []
