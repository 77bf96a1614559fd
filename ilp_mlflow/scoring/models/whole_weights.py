"""Whether a model can be loaded whole: every weight from its files, every file's weight in it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from ilp_mlflow.core.errors import ModelError, first_line
from ilp_mlflow.scoring.models.weight_files import INDEX, WEIGHTS, is_finite, read_shapes

NAMED = 3
"""Tensors that a message names."""


def load_skeleton(
    location: str, config: PretrainedConfig, files: Sequence[Path]
) -> PreTrainedModel:
    """The model of `config` without values, once it is checked that `files` hold all its weights.

    Only headers are read. Names are compared as transformers does when it loads the model: with its
    renamings, tied weights and buffers. Raises ModelError as `refuse_incomplete` does.
    """
    _refuse_other_class(location, config)
    # (name -> a tensor of its shape that holds no values)
    tensors = {}
    for path in files:
        for name, shape in read_shapes(path).items():
            tensors[name] = torch.empty(shape, device="meta")
    model_class: Any = AutoModelForCausalLM._model_mapping[type(config)]
    try:
        with quiet_libraries(), _without_bars():
            model, info = model_class.from_pretrained(
                None,
                config=config,
                state_dict=tensors,
                device_map="meta",
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except ImportError as error:
        raise ModelError(f"{location}: cannot be loaded ({first_line(error)})") from None
    # values in config.json that do not fit raise whatever they break
    except Exception as error:
        raise ModelError(
            f"{location}: cannot be loaded ({first_line(error)}); take the config.json that these "
            "weights were saved with"
        ) from None
    refuse_incomplete(location, info, files)
    skeleton: PreTrainedModel = model
    return skeleton


def refuse_incomplete(location: str, info: Mapping[str, Any], files: Sequence[Path]) -> None:
    """Raise ModelError when a model was not loaded whole.

    `info` is what `from_pretrained` says of it. The message names tensors and their file.
    """
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    mismatched = sorted(info["mismatched_keys"])
    place = _place(location, files)
    if missing:
        found = ""
        if unexpected:
            found = f"; {in_words(unexpected)} there instead"
        raise ModelError(
            f"{place}: {len(missing)} of the model's weights are not in the file "
            f"({some_of(missing)}): they would be random{found}; save or copy the whole model again"
        )
    if mismatched:
        name, in_file, in_model = mismatched[0]
        raise ModelError(
            f"{_file_of(name, place, files)}: {name} is {in_shape(in_file)}, config.json makes it "
            f"{in_shape(in_model)}; take the config.json that these weights were saved with"
        )
    if unexpected:
        raise ModelError(
            f"{_file_of(unexpected[0], place, files)}: {in_words(unexpected)} not in the model "
            "that config.json describes (another number of layers or type?); take the config.json "
            "that these weights were saved with"
        )
    if info.get("conversion_errors"):
        name = min(map(str, info["conversion_errors"]))
        raise ModelError(f"{place}: {name} cannot be converted; save the model again")


def refuse_diverged_model(model: torch.nn.Module, name: str) -> None:
    """Raise ModelError when a weight of the model that is called `name` is not finite."""
    for weight_name, weights in model.named_parameters():
        if not is_finite(weights.detach()):
            raise ModelError(
                f"{name}: {weight_name} is not finite (nan or infinite); "
                "the training diverged: take an earlier checkpoint"
            )


def in_shape(shape: Sequence[int]) -> str:
    """A shape as text: `601 x 64`."""
    return " x ".join(map(str, shape)) or "a single number"


def some_of(names: Sequence[str]) -> str:
    """The first of many names."""
    shown = ", ".join(names[:NAMED])
    return f"{shown}, ..." if len(names) > NAMED else shown


def in_words(names: Sequence[str]) -> str:
    """How many tensors there are, the first names, and the verb: `2 tensors (a, b) are`."""
    if len(names) == 1:
        return f"1 tensor ({names[0]}) is"
    return f"{len(names)} tensors ({some_of(names)}) are"


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep warnings and reports of transformers and PEFT from the user while this is open."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Keep transformers' progress bars from the user: a skeleton is there in no time."""

    def hook(bar: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        return bar(*args, **{**options, "disable": True})

    hook_before = logging.set_tqdm_hook(hook)
    try:
        yield
    finally:
        logging.set_tqdm_hook(hook_before)


def _refuse_other_class(location: str, config: PretrainedConfig) -> None:
    """Raise ModelError when a configuration names the class of another type of model."""
    classes_of_types: Mapping[str, Any] = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    for architecture in config.architectures or ():
        types = [name for name, known in classes_of_types.items() if known == architecture]
        if types and config.model_type not in types:
            raise ModelError(
                f"{location}: config.json says model_type '{config.model_type}', but architecture "
                f"{architecture}, which is another type's; take the config.json that these "
                "weights were saved with"
            )


def _place(location: str, files: Sequence[Path]) -> str:
    """What a message calls the files of a model: the only one, or their index."""
    if len(files) == 1:
        return str(files[0])
    return str(files[0].parent / INDEX) if files else f"{location}/{WEIGHTS}"


def _file_of(name: str, place: str, files: Sequence[Path]) -> str:
    """The file that has the tensor `name`; `place` where its name is another there."""
    for path in files:
        if name in read_shapes(path):
            return str(path)
    return place
