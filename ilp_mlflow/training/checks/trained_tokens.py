"""Which tokens' weights a training leaves as they are: what an adapter trains of a vocabulary."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ilp_mlflow.data.training_configs.setup import AdapterSetup
from ilp_mlflow.scoring.models import model_config
from ilp_mlflow.scoring.tokens.encoding import has_tokenizer, load_tokenizer

EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in")
"""Modules with the vector that is read for every token, as adapters name them."""
HEADS = ("lm_head", "embed_out")
"""Modules with the vector that every token is said by."""
TRAIN_NEW_TOKENS = (
    "add embed_tokens and lm_head to modules_to_save, or the ids of the tokens to "
    "trainable_token_indices"
)
"""What mends an adapter that leaves new tokens as they were made."""


def read_adapter(folder: str) -> AdapterSetup:
    """What the adapter of a folder trains of the embeddings, by its configuration."""
    config = json.loads((Path(folder) / model_config.ADAPTER).read_text(encoding="utf-8"))
    return AdapterSetup(
        target_modules=_as_names(config.get("target_modules")),
        modules_to_save=_as_names(config.get("modules_to_save")),
        token_rows=token_row_modules(config.get("trainable_token_indices")),
    )


def token_row_modules(trainable_token_indices: Any) -> tuple[str, ...]:
    """The modules of which PEFT's `trainable_token_indices` trains single rows."""
    if isinstance(trainable_token_indices, Mapping):
        return tuple(trainable_token_indices)
    return EMBEDDINGS[:1] if trainable_token_indices else ()


def trains_embeddings(adapter: AdapterSetup) -> bool:
    """Whether an adapter trains the rows of new tokens in some way."""
    return adapter.trains_added_tokens or bool(_trained_ends(adapter))


def trains_head(adapter: AdapterSetup, is_tied: bool) -> bool:
    """Whether an adapter trains what tokens are said by; `is_tied`: that is the embedding, too."""
    ends = _trained_ends(adapter)
    return adapter.trains_added_tokens or "head" in ends or (is_tied and bool(ends))


def tokens_of_base(parts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """The tokens that the base has; an adapter may bring a tokenizer with more."""
    if len(parts) > 1 and has_tokenizer(parts[0]):
        tokenizer = load_tokenizer(parts[:1])
    return set(tokenizer.get_vocab())


def _trained_ends(adapter: AdapterSetup) -> set[str]:
    ends = set()
    for module in (*adapter.modules_to_save, *adapter.target_modules, *adapter.token_rows):
        name = module.rpartition(".")[2]
        if name in EMBEDDINGS:
            ends.add("embedding")
        if name in HEADS:
            ends.add("head")
    return ends


def _as_names(value: str | Sequence[str] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())
