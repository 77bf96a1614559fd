"""What a training does to its rows, whichever trainer's configuration says so."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field

from ilp_mlflow.core.config import DataConfig
from ilp_mlflow.core.value import Value

Trainer = Literal["TRL", "LLaMA-Factory", "axolotl", "ilp"]
"""The programs whose configurations are read."""


class AdapterSetup(Value):
    """An adapter that is trained in place of all weights: what of the embeddings it trains."""

    target_modules: tuple[str, ...] = ()
    """Modules that get low-rank matrices."""
    modules_to_save: tuple[str, ...] = ()
    """Modules that are trained whole."""
    token_rows: tuple[str, ...] = ()
    """Modules of which single rows are trained (`trainable_token_indices`)."""
    trains_added_tokens: bool = False
    """Whether the trainer itself trains the embeddings once it has added tokens."""
    scale: float | None = None
    """By what the product of its matrices is multiplied, alpha/r; None where that is not known."""


def lora_scale(alpha: float, rank: float, is_rank_stabilised: bool = False) -> float:
    """What LoRA multiplies its product by: alpha/r, with rsLoRA alpha/sqrt(r)."""
    return alpha / (math.sqrt(rank) if is_rank_stabilised else rank)


class TrainingSetup(Value):
    """What a training does to its rows; left out: as TRL does without any option."""

    trainer: Trainer = "TRL"
    """The program that trains."""
    read_as: str = (
        "no training configuration: rows are prepared as TRL does by default, with the answer "
        "alone in the loss"
    )
    """One line that says what was read, and by which keys it was recognised."""
    read_from_file: bool = False
    """Whether there is a configuration."""
    model: str | None = None
    """The model that is trained, where the configuration names it."""
    data: tuple[DataConfig, ...] = ()
    """Its rows."""
    text_field: str = "text"
    """The column of plain text (`dataset_text_field`)."""
    held_out: tuple[DataConfig, ...] = ()
    """Rows that are measured and are not to be trained, where the configuration names some."""
    max_length: int | None = 1024
    """Tokens that a row may have; None: any number."""
    too_long: Literal["keep_start", "keep_end", "share", "drop"] = "keep_start"
    """What becomes of a longer row: cut at its end, in front, prompt and answer each by their share
    (LLaMA-Factory), or left out whole."""
    packing: bool = False
    """Whether several rows share a sequence."""
    splits_at: int | None = None
    """Tokens of a sequence at whose end packing cuts whatever row stands there, or, of a row that
    is longer, begins another piece; None: rows stay whole."""
    splits_any_row: bool = False
    """Whether packing cuts rows that would fit, too."""
    loss_on: Literal["answer", "assistant turns", "everything"] | None = None
    """Which tokens are in the loss; None: TRL's default, by the columns of the rows."""
    history_in_loss: bool = True
    """Whether turns of the assistant before the last one may be in the loss, where its turns are;
    not where rows are split into prompt and completion."""
    completion_only: bool | None = None
    """`completion_only_loss` as TRL's configuration says it; None where it does not."""
    reads_weights: bool = True
    """Whether `weight: 0` keeps a turn out of the loss, as it does in our own training."""
    end_in_loss: bool = True
    """Whether the end tokens of trained turns are in the loss."""
    chat_template: str | None = None
    """Jinja text in place of the model's own chat template."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Variables for the chat template."""
    eos_token: str | None = None
    """End token in place of the tokenizer's own."""
    pad_token: str | None = None
    """Padding token in place of the tokenizer's own."""
    added_tokens: tuple[str, ...] = ()
    """Tokens that the training adds to the vocabulary, unless it has them."""
    adapter: AdapterSetup | None = None
    """The adapter that is trained; None: all weights."""
    epochs: float = 3.0
    """Passes over the rows."""
    max_steps: int = -1
    """Optimizer steps in place of epochs; -1: as many as the epochs have."""
    batch_size: int = 8
    """Rows per device and batch."""
    accumulation: int = 1
    """Batches per optimizer step."""
    learning_rate: float | None = None
    """The highest learning rate; None where that is not known."""
    warmup_steps: float = 0.0
    """Steps in which it rises; below 1 a share of all steps."""
    optimizer: str = ""
    """Name of the optimizer, "" where it is the trainer's own choice."""
    notes: tuple[str, ...] = ()
    """What of the configuration is not read although it may matter for the rows, a sentence
    each."""
    unknown_keys: tuple[str, ...] = ()
    """Keys that the trainer does not know and that may have been meant for one that is read, a
    sentence each."""
    ignored: tuple[str, ...] = ()
    """Options that do nothing for these rows, a sentence each."""
    form_fault: str = ""
    """Why the trainer does not train on rows of this form; "" where it does."""
    form_fault_rows: int = 0
    """Rows of which that is true."""
    foreign_roles: tuple[str, ...] = ()
    """Roles that the chat template is given as the rows have them, and does not know."""
