"""Vocabularies of checkpoints that are scored together: alike, as far as both have a token."""

from __future__ import annotations

from collections.abc import Iterable

from transformers import PreTrainedTokenizerBase

from ilp_mlflow.core.errors import ModelError


def refuse_other_vocabulary(
    checkpoint: str, tokenizer: PreTrainedTokenizerBase, last: PreTrainedTokenizerBase
) -> None:
    """Raise ModelError when one id means two tokens, or one token has two ids.

    Tokens that only one of `tokenizer`, that of `checkpoint`, and `last`, that of the last
    checkpoint, has do not matter: models are scored on the tokens they have.
    """
    ids, last_ids = tokenizer.get_vocab(), last.get_vocab()
    tokens, last_tokens = _by_id(ids), _by_id(last_ids)
    for token, number in ids.items():
        if last_ids.get(token, number) != number or last_tokens.get(number, token) != token:
            raise ModelError(
                f"checkpoint '{checkpoint}' has another vocabulary than the last one: "
                f"token {number} is {tokens[number]!r} and {last_tokens.get(number, '-')!r} there; "
                "score them in separate calls"
            )


def lacking_token(ids: Iterable[int], vocabulary: int) -> int | None:
    """The first of `ids` that a model with `vocabulary` tokens does not have, else None."""
    for token in ids:
        if token >= vocabulary:
            return int(token)
    return None


def _by_id(ids: dict[str, int]) -> dict[int, str]:
    return {number: token for token, number in ids.items()}
