"""Rows that are set aside to be measured, and trained all the same."""

from __future__ import annotations

from collections.abc import Sequence

from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.held_out import CHANGE, compare_held_out
from ilp_mlflow.training.checks.finding import CheckFinding


def check_held_out(samples: Sequence[Sample], held_out: Sequence[Sample]) -> list[CheckFinding]:
    """Rows of the held-out or evaluation set that are also among the rows that are trained."""
    compared = compare_held_out(held_out, samples)
    if not compared.trained:
        return []
    return [
        CheckFinding(
            kind="held_out_trained",
            severity="warning",
            sentence=compared.sentence,
            rows=compared.trained,
            share=compared.trained / compared.rows,
            example=compared.example,
            change=CHANGE,
        )
    ]
