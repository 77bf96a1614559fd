"""The options of a stage for TRL and PEFT, checked before anything is trained."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError
from trl import SFTConfig

from ilp_mlflow.core.errors import ConfigError, first_line, suggest

RESERVED = {
    "output_dir": "checkpoints go to MLflow",
    "report_to": "metrics go to MLflow through ilp",
    "run_name": "runs are named after their stage",
    "packing": "a packed batch hides which samples are in it",
    "padding_free": "a batch without padding hides which samples are in it",
    "train_sampling_strategy": "the order is the stage's 'schedule'",
    "chat_template_path": "set 'tokenizer.chat_template', so that scoring uses it too",
    "eos_token": "set 'tokenizer.eos_token', so that scoring uses it too",
    "resume_from_checkpoint": "run the stage again from its parent",
    "eval_strategy": (
        "every sample is scored after the stage; set 'score_every' for scores inside it"
    ),
    "save_strategy": "set 'score_every' to keep checkpoints inside a stage",
    "save_only_model": "an interrupted stage goes on from all that the trainer keeps",
    "remove_unused_columns": "ilp decides which columns reach the model",
    "shuffle_dataset": "the order is the stage's 'schedule'",
    "data_seed": "the order depends on 'seed'",
    "dataset_text_field": "rows have 'prompt' and 'completion'",
    "dataset_kwargs": "TRL prepares the rows",
    "eval_on_start": "every sample is scored after the stage",
    "push_to_hub": "models are registered in MLflow",
}
"""Options of SFTConfig that a stage cannot set, and why."""
MODEL_INIT_KWARGS = ("attn_implementation", "dtype")
"""The `model_init_kwargs` that change how a model is trained and not which one it is."""
POSITIVE = (
    "num_train_epochs",
    "learning_rate",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "logging_steps",
    "r",
)
"""Options that make no sense at 0 or below."""


def default_options() -> dict[str, Any]:
    """Options of SFTConfig that are set unless a stage sets them."""
    options = {"logging_first_step": True}
    if not torch.cuda.is_available():
        # TRL asks for bf16 by itself, and refuses it where there is no accelerator
        options["bf16"] = False
    return options


def check_options(stage: str, training: Mapping[str, Any], peft: Mapping[str, Any] | None) -> None:
    """Check what a stage passes on to TRL (`training`) and PEFT (`peft`).

    Raises ConfigError for an option that SFTConfig or LoraConfig does not have or refuses, that has
    a value of the wrong type, or that ilp sets itself.
    """
    for name, reason in RESERVED.items():
        if training.get(name) not in (None, False, "no", "none"):
            raise ConfigError(f"stage '{stage}': training.{name} cannot be set: {reason}")
    for name in training.get("model_init_kwargs") or {}:
        if name not in MODEL_INIT_KWARGS:
            raise ConfigError(
                f"stage '{stage}': training.model_init_kwargs.{name} cannot be set: scoring would "
                f"load another model; known are: {', '.join(MODEL_INIT_KWARGS)}"
            )
    # as in training, where both are set by ilp
    options = {**default_options(), **training, "output_dir": "unused", "report_to": "none"}
    _check_config(SFTConfig, options, f"stage '{stage}': training")
    if peft is not None:
        _check_config(LoraConfig, peft, f"stage '{stage}': peft")


def _check_config(config: type[Any], options: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError for an option that the dataclass `config` does not have or refuses."""
    known = [field.name for field in dataclasses.fields(config) if field.init]
    hints = typing.get_type_hints(config)
    for name, value in options.items():
        if name not in known:
            raise ConfigError(
                f"{where}.{name}: unknown option of {config.__name__}; {suggest(name, known)}"
            )
        _check_value(f"{where}.{name}", value, hints[name])
        if name in POSITIVE and value is not None and not 0 < value < math.inf:
            raise ConfigError(f"{where}.{name}: must be above 0, got {value!r}")
    try:
        config(**options)
    except (TypeError, ValueError, RuntimeError, ImportError) as error:
        raise ConfigError(f"{where}: {config.__name__} refuses it: {first_line(error)}") from None


def _check_value(where: str, value: Any, hint: Any) -> None:
    """Raise ConfigError for a value that is not of the type `hint`."""
    try:
        # the dataclasses of TRL and PEFT do not check types: "two" epochs would fail while training
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
        adapter.validate_python(value)
    except PydanticSchemaGenerationError:
        # a type only the library knows; it checks the value itself
        return
    except ValidationError:
        kind = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
        raise ConfigError(f"{where}: expected {kind}, got {value!r}") from None
