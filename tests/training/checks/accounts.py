"""Rows with accounts as they would be, but for what a test changes."""

from ilp_mlflow.core.texts import Message
from ilp_mlflow.core.values import Sample
from ilp_mlflow.training.accounts.row_account import RowAccount, Segment
from ilp_mlflow.training.checks.finding import CheckedRow

FINE = {
    "sample_id": "s",
    "segments": (
        Segment(text="The capital of Peru is", kind="prompt"),
        Segment(text=" Lima<|end|>", kind="supervised"),
    ),
    "prompt_tokens": 6,
    "answer_tokens": 4,
    "supervised_tokens": 4,
    "supervised_answer_tokens": 4,
    "cut_tokens": 0,
    "dropped": (),
    "added": (),
    "end_token": "<|end|>",
    "end_supervised": True,
    "end_stops": True,
    "weight_zero": False,
    "assumed": False,
}
"""A row of which the whole answer is in the loss, and nothing else."""


def row(number=1, prompt="The capital of Peru is", completion=" Lima", **changes):
    """A checked row; `changes` are fields of its account."""
    sample = Sample(id=f"s{number}", stage="s", prompt=prompt, completion=completion)
    account = RowAccount(**{**FINE, "sample_id": sample.id, **changes})
    return CheckedRow(sample, account)


def chat_row(number, *contents, **changes):
    """A checked conversation of user and assistant in turns, the assistant last."""
    roles = ("user", "assistant") * len(contents)
    turns = tuple(Message(role=r, content=c) for r, c in zip(roles, contents, strict=False))
    return row(number, prompt=turns[:-1], completion=turns[-1:], **changes)


def kinds(findings):
    """Kinds of findings with their severity and number of rows."""
    return [(finding.kind, finding.severity, finding.rows) for finding in findings]
