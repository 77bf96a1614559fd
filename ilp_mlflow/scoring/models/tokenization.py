"""How a model reads text, by its files alone: tokenizer, end tokens, longest sequence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PretrainedConfig

from ilp_mlflow.core.config import TokenizerConfig
from ilp_mlflow.core.terminal.notes import say_once
from ilp_mlflow.scoring.models.model_config import (
    foreign_end_tokens,
    generation_end_token_ids,
    max_positions,
    read_config,
)
from ilp_mlflow.scoring.models.weight_files import model_files, read_shapes
from ilp_mlflow.scoring.tokens.encoding import (
    Tokenization,
    gguf_option,
    has_tokenizer,
    load_tokenizer,
)


def read_tokenization(
    parts: Sequence[str],
    tokenizer: TokenizerConfig | None = None,
    base: Sequence[str] | None = None,
) -> Tokenization:
    """How the model made of `parts` (see `load_model`) reads text.

    A model without a tokenizer reads text as `base` does, the parts of the model that it was
    trained from; that is said. Raises ModelError when a part is missing or damaged, has pickled
    weights only, or is not a causal language model.
    """
    location = parts[0]
    config = read_config(location)
    check_folder(location)
    max_length = read_max_length(parts, config)
    read_with = parts
    if base and any(map(has_tokenizer, base)) and not any(map(has_tokenizer, parts)):
        # what is there without a vocabulary, such as a chat template, still counts
        read_with = [*base, parts[-1]]
        say_once(f"{parts[-1]}: no tokenizer beside the weights; the one of {base[0]} is used")
    with_options = load_tokenizer(read_with, tokenizer)
    foreign = foreign_end_tokens(location, config)
    if foreign:
        say_once(f"{location}: {foreign.sentence}")
    end_token_ids = generation_end_token_ids(location, config).difference(foreign.ids)
    if with_options.eos_token_id is not None:
        end_token_ids.add(with_options.eos_token_id)
    return Tokenization(with_options, frozenset(end_token_ids), max_length)


def read_max_length(parts: Sequence[str], config: PretrainedConfig) -> int | None:
    """Longest sequence in tokens that a model made of `parts` has positions for, None: no limit.

    `config` is that of its base. Raises ModelError when an adapter cannot be read.
    """
    positions = max_positions(config)
    if not parts[1:]:
        return positions
    # PEFT takes seconds to import, and most models are no adapters
    from ilp_mlflow.scoring.models.adapters import virtual_tokens

    # some adapters put tokens of their own in front
    taken = sum(map(virtual_tokens, parts[1:]))
    return None if positions is None else positions - taken


def check_folder(location: str) -> None:
    """Raise ModelError when a local folder has no safetensors, or damaged ones."""
    folder = Path(location)
    if not folder.is_dir() or gguf_option(location):
        return
    for path in model_files(location):
        read_shapes(path)
