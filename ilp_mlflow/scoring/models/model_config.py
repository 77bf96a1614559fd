"""The configuration of a base, and of what it generates: read, and refused where it cannot be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PretrainedConfig

from ilp_mlflow.core.errors import ModelError, first_line
from ilp_mlflow.core.lfs_pointers import FAULT, is_lfs_pointer
from ilp_mlflow.scoring.models.weight_files import ADAPTER_WEIGHTS
from ilp_mlflow.scoring.models.whole_weights import quiet_libraries
from ilp_mlflow.scoring.tokens.encoding import gguf_option

ADAPTER = "adapter_config.json"
"""The file with the configuration of an adapter."""
POSITIVE = ("rope_theta", "factor")
"""Settings of rotary positions that have to be above zero."""


def read_config(location: str) -> PretrainedConfig:
    """The configuration of a base. Raises ModelError when it is missing or cannot be read."""
    folder = Path(location)
    if folder.is_dir() and not gguf_option(location) and not (folder / "config.json").exists():
        hint = "give a folder with a model in safetensors, or one GGUF file"
        if (folder / ADAPTER_WEIGHTS).exists():
            hint = f"beside {ADAPTER_WEIGHTS} there must be its {ADAPTER}"
        raise ModelError(f"{location}: no config.json; {hint}")
    for name in ("config.json", *gguf_option(location).values()):
        if is_lfs_pointer(folder / name):
            raise ModelError(f"{folder / name}: {FAULT}")
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(
            location, trust_remote_code=False, **gguf_option(location)
        )
    # a damaged configuration raises whatever its values break
    except Exception as error:
        # transformers takes a path that does not exist for the id of a Hub model
        if location.startswith((".", "/", "~")) and not Path(location).exists():
            raise ModelError(f"{location}: no such folder; check the path") from None
        hint = "is the Hub reachable and the name right? A local folder works too"
        if Path(location).is_dir():
            hint = "copy or download its config.json again"
        raise ModelError(f"{location}: cannot be read ({first_line(error)}); {hint}") from None
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise ModelError(
            f"{location}: '{config.model_type}' is not a causal language model; give one that is"
        )
    _refuse_impossible(location, config)
    return config


def max_positions(config: PretrainedConfig) -> int | None:
    """Positions that a model has, in tokens; None where there is no limit."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def _refuse_impossible(location: str, config: PretrainedConfig) -> None:
    """Raise ModelError for a value with which a model gives no or no finite scores."""
    values = dict(_rotary_settings(config.get_text_config().to_dict().get("rope_parameters")))
    positions = max_positions(config)
    if positions is not None:
        values["max_position_embeddings"] = positions
    for name, value in values.items():
        if not value > 0:
            raise ModelError(
                f"{location}: config.json says {name} {value}, which has to be above zero; take "
                "the config.json that these weights were saved with"
            )


def _rotary_settings(rope: Any) -> Iterator[tuple[str, float]]:
    """The POSITIVE settings of rotary positions, also where types of layers have their own."""
    if not isinstance(rope, Mapping):
        return
    for name, value in rope.items():
        if isinstance(value, Mapping):
            yield from _rotary_settings(value)
        elif name in POSITIVE and isinstance(value, int | float):
            yield name, value


def is_quantised(config: PretrainedConfig) -> bool:
    """Whether weights are stored as something that transformers makes numbers of.

    Of a method that it does not know it loads what is stored as the weights.
    """
    how = getattr(config, "quantization_config", None)
    if not how:
        return False
    options = how if isinstance(how, dict) else how.to_dict()
    if "quant_method" not in options:
        return False
    # takes seconds to import, and few models are quantised
    from transformers.quantizers import AutoHfQuantizer

    with quiet_libraries():
        return AutoHfQuantizer.supports_quant_method(options)


def generation_end_token_ids(base: str, config: PretrainedConfig) -> set[int]:
    """Ids of the end tokens that the model's own generation settings name. Raises ModelError."""
    own_file = Path(base) / "generation_config.json"
    try:
        generation = GenerationConfig.from_pretrained(base)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        if own_file.exists():
            raise ModelError(
                f"{own_file}: cannot be read ({first_line(error)}); copy or download it again"
            ) from None
        generation = GenerationConfig.from_model_config(config)
    ids = generation.eos_token_id
    ids = ids if isinstance(ids, list) else [] if ids is None else [ids]
    if not all(type(number) is int for number in ids):
        raise ModelError(f"{own_file}: eos_token_id {ids} is no id of a token; write its number")
    return set(ids)


@dataclass(frozen=True)
class ForeignEndTokens:
    """Ids at which generation is to stop, and for which the model has no token."""

    ids: tuple[int, ...]
    """The ids."""
    vocabulary: int
    """Tokens that the model has."""

    def __bool__(self) -> bool:
        return bool(self.ids)

    @property
    def sentence(self) -> str:
        """What is wrong, in words."""
        named = ", ".join(map(str, self.ids))
        return (
            f"eos_token_id {named} is no token of the model, which has {self.vocabulary}: "
            "generation never stops there"
        )


def foreign_end_tokens(location: str, config: PretrainedConfig) -> ForeignEndTokens:
    """What the generation settings of a base name as end tokens that it does not have.

    Raises ModelError when they cannot be read.
    """
    vocabulary = int(config.get_text_config().vocab_size)
    ids = generation_end_token_ids(location, config)
    foreign = sorted(number for number in ids if not 0 <= number < vocabulary)
    return ForeignEndTokens(tuple(foreign), vocabulary)
