"""What the files of the last checkpoint say of its tokens, without loading its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ilp_mlflow.core.config import TokenizerConfig
from ilp_mlflow.core.interfaces import Context
from ilp_mlflow.scoring.checkpoints import read_last_tokenization
from ilp_mlflow.tracking import model_registry
from ilp_mlflow.training.checks.embeddings import Embedding, find_embedding, has_tied_head
from ilp_mlflow.training.checks.trained_tokens import (
    read_adapter,
    tokens_of_base,
    trains_head,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class LastModel:
    """How the last checkpoint reads and ends text, and which of its tokens were trained."""

    tokenizer: PreTrainedTokenizerBase
    """With the options of the experiment applied."""
    end_token_ids: frozenset[int]
    """Ids of the tokens that end a generation."""
    embedding_rows: int
    """Tokens that the model has an embedding for."""
    has_adapter: bool
    """Whether it is an adapter on its base."""
    untrained: Callable[[Sequence[str]], list[str]]
    """Those of some tokens whose weights no training touched."""

    @property
    def end_tokens(self) -> list[str]:
        """The tokens that end a generation."""
        tokens: list[str] = self.tokenizer.convert_ids_to_tokens(sorted(self.end_token_ids))
        return tokens


def read_last_model(context: Context, tokenizer: TokenizerConfig | None) -> LastModel:
    """What the files of a context's last checkpoint say; `tokenizer` as the experiment has it.

    Raises ModelError when they cannot be read.
    """
    locations = {c.name: c.model_uri for c in context.checkpoints}
    parts = list(model_registry.resolve_all(locations).values())
    base, last = parts[0], parts[-1]
    tokenization = read_last_tokenization(dict(zip(locations, parts, strict=True)), tokenizer)
    embedding = find_embedding(last)

    def untrained(tokens: Sequence[str]) -> list[str]:
        if len(last) > 1:
            return _left_by_adapters(tokens, last, tokenization.tokenizer, embedding)
        return _left_by_whole_training(
            tokens, tokenization.tokenizer, embedding, find_embedding(base)
        )

    return LastModel(
        tokenizer=tokenization.tokenizer,
        end_token_ids=tokenization.end_token_ids,
        embedding_rows=embedding.rows,
        has_adapter=len(last) > 1,
        untrained=untrained,
    )


def _left_by_adapters(
    tokens: Sequence[str],
    parts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    embedding: Embedding,
) -> list[str]:
    """Tokens that are new to the base, or as they were made in it, where no adapter trains them."""
    is_tied = has_tied_head(parts[0])
    if any(trains_head(read_adapter(folder), is_tied) for folder in parts[1:]):
        return []
    known = tokens_of_base(parts, tokenizer)
    ids = _ids(tokens, tokenizer)
    as_made = embedding.untrained(list(ids.values()))
    return [token for token, id_ in ids.items() if token not in known or id_ in as_made]


def _left_by_whole_training(
    tokens: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    embedding: Embedding,
    before: Embedding,
) -> list[str]:
    """Tokens whose weights are as they were made, and just those of the base: frozen ones."""
    ids = _ids(tokens, tokenizer)
    left = embedding.untrained(list(ids.values()))
    left &= embedding.rows_in_common(before, left)
    return [token for token, id_ in ids.items() if id_ in left]


def _ids(tokens: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    return {token: int(tokenizer.convert_tokens_to_ids(token)) for token in tokens}
