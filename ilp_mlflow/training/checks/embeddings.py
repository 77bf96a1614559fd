"""What the files of a model say of its embedding, without loading the model."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from transformers import AutoConfig

from ilp_mlflow.scoring.tokens.encoding import gguf_option

NAMES = (
    re.compile(r"(lm_head|embed_out)\.weight$"),
    re.compile(r"(embed_tokens|wte|word_embeddings|embed_in|tok_embeddings)\.weight$"),
)
"""Names of tensors with a row for every token, the head first: the input row of a token that only
ends texts is never trained, and need not be."""
COMPARED = 2000
"""Rows from the top with which others are compared."""
UNLIKE = 0.3
"""A row is as it was made that is closer to the mean row, or to zero, than this part of what
others are."""


class Embedding(NamedTuple):
    """The rows of a model's tokens in its file: of its head, else of its embedding."""

    rows: int
    """A row for every token."""
    file: Path | None
    """The file that has it; None where only the configuration is there."""
    tensor: str
    """Its name in the file."""

    def untrained(self, ids: Collection[int]) -> set[int]:
        """Those of the ids whose rows are as they were made: near zero, or near the mean of all.

        Only these rows and COMPARED others are read.
        """
        if self.file is None or not ids:
            return set()
        with safe_open(str(self.file), "pt") as weights:
            return untrained_rows(weights.get_slice(self.tensor), self.rows, ids)

    def rows_in_common(self, other: Embedding, ids: Collection[int]) -> set[int]:
        """Those of the ids whose rows are equal, value for value, in another embedding."""
        if self.file is None or other.file is None:
            return set()
        equal = set()
        with safe_open(str(self.file), "pt") as ours, safe_open(str(other.file), "pt") as theirs:
            table, other_table = ours.get_slice(self.tensor), theirs.get_slice(other.tensor)
            for number in ids:
                if number >= min(self.rows, other.rows):
                    continue
                if torch.equal(_row(table, number), _row(other_table, number)):
                    equal.add(number)
        return equal


class LoadedEmbedding(NamedTuple):
    """The rows of a loaded model's tokens: of its head, else of its embedding."""

    table: torch.Tensor
    """(tokens, width)."""

    @classmethod
    def of_model(cls, model: Any) -> LoadedEmbedding:
        """That of a causal language model, with an adapter or without."""
        module = model.get_output_embeddings() or model.get_input_embeddings()
        return cls(module.weight.detach())

    @property
    def rows(self) -> int:
        """A row for every token."""
        return len(self.table)

    def untrained(self, ids: Collection[int]) -> set[int]:
        """As `Embedding.untrained`."""
        return untrained_rows(self.table, self.rows, ids)


def untrained_rows(table: Any, rows: int, ids: Collection[int]) -> set[int]:
    """Those of the ids whose rows of a table, or of a slice of a file, are as they were made."""
    if not ids:
        return set()
    others = table[:COMPARED].float()
    mean = others.mean(dim=0)
    usual_norm = others.norm(dim=1).median()
    usual_distance = (others - mean).norm(dim=1).median()
    made = set()
    for number in ids:
        if number >= rows:
            continue
        row = _row(table, number)
        near_zero = row.norm() < UNLIKE * usual_norm
        near_mean = (row - mean).norm() < UNLIKE * usual_distance
        if near_zero or near_mean:
            made.add(number)
    return made


def _row(table: Any, number: int) -> torch.Tensor:
    return table[number : number + 1].float()[0]


def find_embedding(parts: Sequence[str]) -> Embedding:
    """The embedding of a model made of `parts`: its base and its adapters, of which one may bring
    a larger embedding.
    """
    for name in NAMES:
        for part in reversed(parts):
            found = _find(Path(part), name)
            if found:
                return found
    base = parts[0]
    config = AutoConfig.from_pretrained(base, trust_remote_code=False, **gguf_option(base))
    return Embedding(int(config.get_text_config().vocab_size), None, "")


def has_tied_head(base: str) -> bool:
    """Whether tokens are said by the weights that they are read by."""
    config = AutoConfig.from_pretrained(base, trust_remote_code=False, **gguf_option(base))
    return bool(config.get_text_config().tie_word_embeddings)


def _find(folder: Path, name: re.Pattern[str]) -> Embedding | None:
    """The tensor of a name in a folder's files, of which the headers alone are read."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(str(path), "pt") as weights:
            for tensor in weights.keys():  # noqa: SIM118 - no mapping
                if name.search(tensor):
                    return Embedding(int(weights.get_slice(tensor).get_shape()[0]), path, tensor)
    return None
