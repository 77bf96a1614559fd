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
    evaluated: int = 0
    """Rows that the trainer evaluated on; 0 where it did not, or that is not known."""
    evaluated_trained: int = 0
    """Of these, those that are also trained, token by token."""

    @property
    def evaluated_sentence(self) -> str:
        """What is so of rows that are both trained and evaluated on."""
        return (
            f"{self.evaluated_trained} of the {self.evaluated} rows that it evaluates on are also "
            "trained: their loss says nothing of new rows"
        )
