"""Adapters of PEFT: put on the model they were trained on, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, PeftModelForCausalLM, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel

from ilp_mlflow.core.errors import ModelError, first_line
from ilp_mlflow.scoring.models.weight_files import (
    ADAPTER_WEIGHTS,
    Shapes,
    read_shapes,
    tensor_digests,
)
from ilp_mlflow.scoring.models.whole_weights import in_shape, in_words, quiet_libraries, some_of

VIRTUAL_TOKENS = ("PROMPT_TUNING", "P_TUNING")
"""Kinds of adapters that put tokens of their own in front of every sequence."""
PREFIXES = (*VIRTUAL_TOKENS, "PREFIX_TUNING")
"""Kinds that leave the weights as they are, so that nothing can be merged."""
KINDS = (
    *PREFIXES,
    "ADALORA",
    "BOFT",
    "C3A",
    "DELORA",
    "FOURIERFT",
    "GRALORA",
    "HRA",
    "IA3",
    "LN_TUNING",
    "LOHA",
    "LOKR",
    "LORA",
    "MISS",
    "OFT",
    "RANDLORA",
    "ROAD",
    "TRAINABLE_TOKENS",
    "VBLORA",
    "VERA",
    "WAVEFT",
)
"""Kinds that a test compares with PEFT's own outputs; others are refused by name."""
OWN_STARTS = ("pissa_niter", "corda", "loftq", "lora_ga")
"""How a LoRA may begin (`init_lora_weights`) with another base than the model that it names: a part
of the weights was moved into the adapter, or lost, in a way that cannot be done again."""
TRAINED_ON = "trained_on.json"
"""The file in which an adapter that was trained here says on which base."""
PREFIX = "base_model.model."
"""In front of the names of a model's tensors in an adapter's file."""


def read_config(folder: str) -> PeftConfig:
    """The configuration of an adapter, of a kind that can be scored.

    Raises ModelError when it cannot be read, is of another kind, or has no weights beside it.
    """
    if not (Path(folder) / ADAPTER_WEIGHTS).exists():
        raise ModelError(f"{folder}: no {ADAPTER_WEIGHTS}; save the adapter as safetensors")
    try:
        with quiet_libraries():
            config = PeftConfig.from_pretrained(folder)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"{folder}/adapter_config.json: cannot be read ({first_line(error)}); take the one "
            "that the adapter was saved with, or a newer version of peft"
        ) from None
    if config.peft_type is None:
        raise ModelError(
            f"{folder}/adapter_config.json: has no peft_type; take the one that the adapter was "
            "saved with"
        )
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if kind not in KINDS:
        raise ModelError(
            f"{folder}: an adapter of kind {kind} cannot be scored; merge it into its base first"
        )
    if getattr(config, "alora_invocation_tokens", None):
        raise ModelError(
            f"{folder}: an activated LoRA (alora_invocation_tokens) cannot be scored: it "
            "depends on where its invocation tokens stand"
        )
    start = getattr(config, "init_lora_weights", None)
    if isinstance(start, str) and start.lower().startswith(OWN_STARTS):
        raise ModelError(
            f"{folder}: a LoRA that began as {start} sits on weights that are not its base's; "
            "convert it to a plain LoRA, or merge it, with the program that trained it"
        )
    task = str(getattr(config.task_type, "value", config.task_type or "CAUSAL_LM"))
    if task != "CAUSAL_LM":
        raise ModelError(f"{folder}: an adapter for {task}, not for a causal language model")
    config.task_type = "CAUSAL_LM"
    return config


def virtual_tokens(folder: str) -> int:
    """Tokens that an adapter puts in front of every sequence. Raises ModelError."""
    config = read_config(folder)
    return int(config.num_virtual_tokens) if config.peft_type in VIRTUAL_TOKENS else 0


def put_adapter(model: Any, folder: str, base: str, trainable: bool = False) -> PeftModel:
    """The model, called `base`, with the adapter of a folder on top.

    Where the adapter brings embeddings of another vocabulary, those of the model are resized.
    Raises ModelError when the adapter's file is missing, damaged or empty, when one of its tensors
    is not in this model or has another shape, and when one that the model needs is not in the file.
    """
    file = Path(folder) / ADAPTER_WEIGHTS
    shapes, config = read_shapes(file), read_config(folder)
    if not shapes:
        raise ModelError(
            f"{file}: empty, none of the adapter's weights is in it; save the adapter again "
            "(under ZeRO-3 or FSDP gather the weights first)"
        )
    if trainable and config.is_prompt_learning:
        raise ModelError(f"{folder}: {config.peft_type.value} cannot be trained on; give its base")
    config.inference_mode = not trainable
    # PiSSA and OLoRA begin with what they take out of the base, and there is nothing in a skeleton
    if model.device.type == "meta" and isinstance(config, LoraConfig):
        config.init_lora_weights = True
    try:
        with quiet_libraries():
            _resize(model, shapes, file)
            adapted = PeftModelForCausalLM(model, config, adapter_name="default")
            own = get_peft_model_state_dict(adapted, save_embedding_layers=False)
            _refuse_other_shapes(own, shapes, file)
            _load(adapted, set(own), set(shapes), file, trainable)
    except ModelError:
        raise
    # settings that do not fit the model, or are damaged, raise whatever they break
    except Exception as error:
        raise ModelError(
            f"{folder}: not an adapter for {base} ({first_line(error)}); give the base that it was "
            "trained on and the adapter_config.json that it was saved with"
        ) from None
    return adapted


def record_base(folder: Path, base: Sequence[Path]) -> None:
    """Write into an adapter's folder which base it was trained on, whose files are `base`."""
    (folder / TRAINED_ON).write_text(json.dumps({"base_tensors": tensor_digests(base)}, indent=1))


def refuse_other_base(folder: str, base: Sequence[Path]) -> None:
    """Raise ModelError when an adapter says that it was trained on another base than `base`."""
    record = Path(folder) / TRAINED_ON
    if not record.exists() or not base:
        return
    digests = tensor_digests(base)
    for name, digest in json.loads(record.read_text())["base_tensors"].items():
        if digests.get(name) != digest:
            raise ModelError(
                f"{folder}: trained on another base than {base[0].parent}: {name} has other values "
                f"in {base[0].name}; give the base that it was trained on"
            )


def merge_adapter(adapted: PeftModel, folder: str) -> PreTrainedModel:
    """The model with an adapter merged into its weights, without values just the model below.

    Raises ModelError for a kind that cannot be merged.
    """
    config = adapted.active_peft_config
    if config.peft_type in PREFIXES:
        raise ModelError(
            f"{folder}: {config.peft_type.value} cannot be merged into the weights, so no other "
            "adapter can sit on it"
        )
    with quiet_libraries():
        if adapted.device.type == "meta":
            merged: PreTrainedModel = adapted.unload()
        else:
            _untie(adapted)
            merged = adapted.merge_and_unload()
    return merged


def _untie(adapted: PeftModel) -> None:
    """Give the head weights of its own where only one end of tied embeddings has an adapter.

    Merged in place, its change would be in both ends.
    """
    below = adapted.get_base_model()
    head, inputs = below.get_output_embeddings(), below.get_input_embeddings()
    if head is None or not any(isinstance(end, BaseTunerLayer) for end in (head, inputs)):
        return
    head_layer, input_layer = _without_adapter(head), _without_adapter(inputs)
    if head_layer.weight is input_layer.weight:
        head_layer.weight = torch.nn.Parameter(head_layer.weight.detach().clone())


def _without_adapter(module: Any) -> Any:
    """The layer of a model itself, with or without an adapter around it."""
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def take_off(adapted: PeftModel) -> PreTrainedModel:
    """The model below an adapter, as it was before that was put on."""
    if adapted.active_peft_config.is_prompt_learning:
        below: PreTrainedModel = adapted.get_base_model()
    else:
        below = adapted.unload()
    return below


def _resize(model: Any, shapes: Shapes, file: Path) -> None:
    """Give the model embeddings of the size that the adapter's file has them in.

    Raises ModelError when the file has another number of rows for one end of the model only.
    """
    ends = {"input": model.get_input_embeddings(), "output": model.get_output_embeddings()}
    rows = {}
    for end, module in ends.items():
        count = _rows_in_file(model, module, shapes)
        if count is not None:
            rows[end] = count
    others = {end: count for end, count in rows.items() if count != len(ends[end].weight)}
    if not others:
        return
    (count, *different) = set(others.values())
    is_tied = model.config.get_text_config().tie_word_embeddings
    if different or (len(rows) < len(ends) and not is_tied):
        end = next(iter(others))
        raise ModelError(
            f"{file}: the {end} embeddings have {count} rows, the model {len(ends[end].weight)}, "
            "and the file does not have both ends; save the adapter with both embeddings"
        )
    model.resize_token_embeddings(count, mean_resizing=False)


def _rows_in_file(model: Any, module: torch.nn.Module, shapes: Shapes) -> int | None:
    """Rows that an adapter's file has for an embedding of the model, None where it has none."""
    name = next(name for name, other in model.named_modules() if other is module)
    for ending in ("", "base_layer.", "modules_to_save.", "token_adapter.base_layer."):
        shape = shapes.get(f"{PREFIX}{name}.{ending}weight")
        if shape is not None:
            return shape[0]
    return None


def _refuse_other_shapes(own: dict[str, torch.Tensor], shapes: Shapes, file: Path) -> None:
    """Raise ModelError for a tensor that has one shape in the model and another in the file."""
    for name in sorted(set(own) & set(shapes)):
        if tuple(own[name].shape) != shapes[name]:
            raise ModelError(
                f"{file}: {name} is {in_shape(shapes[name])}, in this model it is "
                f"{in_shape(own[name].shape)}; give the base that it was trained on and the "
                "adapter_config.json that it was saved with"
            )


def _load(adapted: PeftModel, own: set[str], found: set[str], file: Path, trainable: bool) -> None:
    """Load the tensors `found` in a file into a model whose adapter has the tensors `own`.

    Raises ModelError when some are missing or left over.
    """
    # PEFT also saves what is below an adapter, without the adapter's name in the name
    below = set[str]()
    for name in adapted.get_base_model().state_dict():
        below.add(PREFIX + name.replace(".default.", "."))
    missing, left_over = sorted(own - found), sorted(found - own - below)
    device = "cpu" if adapted.device.type == "meta" else str(adapted.device)
    try:
        result = adapted.load_adapter(
            str(file.parent), "default", is_trainable=trainable, torch_device=device
        )
    except KeyError:
        # PEFT looks for the tensors of some modules without asking whether they are there
        result = None
    if not missing and not left_over:
        return
    # PEFT renames the tensors of older versions on the way: then nothing is missing for it
    if result and left_over and not result.missing_keys and not result.unexpected_keys:
        return
    raise ModelError(_unmatched(missing, left_over, found, file))


def _unmatched(
    missing: Sequence[str], left_over: Sequence[str], found: set[str], file: Path
) -> str:
    """What is wrong with an adapter whose tensors are not those of the model."""
    if len(left_over) == len(found):
        return (
            f"{file}: none of the adapter's weights is in this model ({len(missing)} keys missing, "
            f"for example {missing[0] if missing else '-'}; the file has {left_over[0]}); save the "
            "adapter from the model itself, not from a wrapper"
        )
    if missing:
        return (
            f"{file}: {len(missing)} of the adapter's weights are not in the file "
            f"({some_of(missing)}); save the adapter again"
        )
    return (
        f"{file}: {in_words(left_over)} not in this model; give the base that it was trained on "
        "and the adapter_config.json that it was saved with"
    )
