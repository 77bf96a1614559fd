"""What is advised for rows whose answer the base does not know at all."""

from __future__ import annotations

from ilp_mlflow.core.interfaces import Belief

LEAVE_OUT = (
    "leave out what you can do without, or let the model read a statement of the answer before "
    "the fine-tuning, and set a guard set (held_out rows) beside it: rows whose answer the base "
    "does not know (Unknown in SliCK), once learned at last, raise wrong answers to other questions"
)
"""More training alone would learn such rows at a price (Gekhman et al., EMNLP 2024)."""


def change_for(belief: Belief) -> str:
    """What mends a row, as one would be told to do it; "" where its answer is not Unknown."""
    return LEAVE_OUT if belief.knowledge == "Unknown" else ""
