"""What is to be known of a ledger beside its counts."""

from __future__ import annotations

from ilp_mlflow.core.value import Value


class LedgerNote(Value):
    """How far the ledger of one stage goes."""

    stage: str
    """The stage."""
    steps: int
    """Optimizer steps that were made."""
    kept_step: int | None = None
    """The step whose weights were kept (`load_best_model_at_end`); None: the last."""
    unread: str = ""
    """Why it is not known which rows were trained; "" where it is."""
