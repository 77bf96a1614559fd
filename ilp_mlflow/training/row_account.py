"""What training makes of every row: what the model sees of it, and what is in the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ilp_mlflow.core.values import Sample, Value
from ilp_mlflow.scoring.encoding import Tokenization, encode


class Segment(Value):
    """A piece of the rendered row."""

    text: str
    """Its characters."""
    kind: Literal["prompt", "supervised", "masked", "cut"]
    """`masked` is a part of the answer that is in no loss."""


class RowAccount(Value):
    """What the trainer made of one row."""

    sample_id: str
    """The row."""
    segments: tuple[Segment, ...]
    """What the model sees, in order, then what `max_length` cut."""
    prompt_tokens: int
    """Tokens before the answer."""
    answer_tokens: int
    """Tokens of the answer (the judged last turn), its end token included."""
    supervised_tokens: int
    """Tokens of the whole row that are in the loss."""
    supervised_answer_tokens: int
    """Of these, those of the answer."""
    cut_tokens: int
    """Tokens that `max_length` cut."""
    dropped: tuple[str, ...]
    """What of the row is nowhere in the rendered text."""
    added: tuple[str, ...]
    """Text that the template puts in and that is none of the row's."""
    end_token: str | None
    """Token that ends the answer."""
    end_supervised: bool
    """Whether that token is in the loss."""
    end_stops: bool
    """Whether that token is an end token of the model."""
    weight_zero: bool
    """Whether the row itself takes its answer out of the loss."""


def account_rows(
    samples: Sequence[Sample], tokenization: Tokenization, training: Mapping[str, Any]
) -> list[RowAccount]:
    """The account of every sample, as training with these options of `trl.SFTConfig` makes it."""
    limit = training.get("max_length", 1024)
    everything = training.get("completion_only_loss") is False
    tokenizer = tokenization.tokenizer
    accounts = []
    for sample in samples:
        whole = encode(tokenizer, sample.prompt, sample.completion, tokenization.end_token_ids)
        kept = whole.ids[:limit]
        start = whole.start
        n_answer = len(kept[start:])
        pieces = (
            ("prompt", kept[:start]),
            ("supervised", kept[start:]),
            ("cut", whole.ids[len(kept) :]),
        )
        accounts.append(
            RowAccount.model_validate(
                {
                    "sample_id": sample.id,
                    "segments": [
                        {"text": tokenizer.decode(ids), "kind": kind} for kind, ids in pieces if ids
                    ],
                    "prompt_tokens": start,
                    "answer_tokens": len(whole.ids) - start,
                    "supervised_tokens": len(kept) if everything else n_answer,
                    "supervised_answer_tokens": n_answer,
                    "cut_tokens": len(whole.ids) - len(kept),
                    "dropped": (),
                    "added": (),
                    "end_token": tokenizer.convert_ids_to_tokens(whole.ids[-1]),
                    "end_supervised": len(kept) == len(whole.ids),
                    "end_stops": whole.ended,
                    "weight_zero": False,
                }
            )
        )
    return accounts
