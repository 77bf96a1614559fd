"""What is to be known of a ledger beside its counts."""

from __future__ import annotations

from ilp_mlflow.core.value import Value

LABELS_IN_PLACE = "leave the labels where their tokens are: the model shifts them itself"
"""What mends labels that are shifted."""
MASK_PADDING = (
    "give the model an attention_mask that is 0 on padding, or pad behind the rows "
    "(padding_side: right)"
)
"""What mends padding that a model reads."""


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

    label_offset: int = 0
    """How far behind its label the token of each stands: 1 where labels were shifted before the
    model shifts them, too."""
    rows: int = 0
    """Rows of all batches, each as often as it was in one."""
    attended_padding: int = 0
    """Of these, those with padding in front that the model read as text."""

    @property
    def label_sentence(self) -> str:
        """What is so of labels that stand elsewhere than their tokens."""
        which = "next token" if self.label_offset > 0 else "token before"
        learned = "the one after the next" if self.label_offset > 0 else "the one it has just read"
        return (
            f"the label of each token is the {which} already, and the model shifts labels once "
            f"more: it learns to say {learned}"
        )

    @property
    def padding_sentence(self) -> str:
        """What is so of padding that a model reads as text."""
        return (
            f"padding in front of {self.attended_padding} of {self.rows} rows was left out by no "
            "attention mask: the model read it as text"
        )

    @property
    def evaluated_sentence(self) -> str:
        """What is so of rows that are both trained and evaluated on."""
        return (
            f"{self.evaluated_trained} of the {self.evaluated} rows that it evaluates on are also "
            "trained: their loss says nothing of new rows"
        )
