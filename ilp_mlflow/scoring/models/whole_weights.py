"""Whether a model can be loaded whole: every weight from its files, every file's weight in it."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from ilp_mlflow.core.errors import ModelError, first_line
from ilp_mlflow.scoring.models.weight_files import (
    INDEX,
    WEIGHTS,
    Constant,
    constant_value,
    is_finite,
    read_shapes,
)

if TYPE_CHECKING:
    # takes seconds to import
    from transformers import PreTrainedModel

LAYER = re.compile(r".*?\.\d+\.")
"""The part of a tensor's name that says of which layer it is."""
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


def constant_weights(model: torch.nn.Module, location: str) -> dict[str, Constant]:
    """The weights of the model at `location` of which every value is the same, by name."""
    constants = {}
    for name, weights in model.named_parameters():
        value = constant_value(weights.detach())
        if value is not None:
            constants[name] = Constant(value, location)
    return constants


def refuse_constant(model: torch.nn.Module, constants: Mapping[str, Constant]) -> None:
    """Raise ModelError where one value stands in for weights without which a model says nothing.

    `model` may be without values; `constants` are its tensors that have one value only. Embeddings,
    a head of its own, and all matrices of a layer are refused, and a norm of zeros outside the
    layers that starts with ones. Single matrices and biases may well be zero, and so may norms that
    start with zeros (Gemma's, whose weight is added to one).
    """
    names = [name for name, _ in model.named_parameters()]
    ends, norms = _ends(model), _outer_norms(model)
    for name in sorted((ends | norms).intersection(names)):
        constant = _constant(constants, name)
        # a norm that training left alone is all ones
        if constant and (name in ends or constant.value == 0):
            _refuse_values(constant, f"{name} is {_everywhere(constant.value)}")
    matrices_by_layer: dict[str, list[str]] = {}
    for name, weights in model.named_parameters():
        layer = LAYER.match(name)
        if layer and weights.ndim > 1:
            matrices_by_layer.setdefault(layer[0], []).append(name)
    for layer_name, matrices in matrices_by_layer.items():
        first, *others = [_constant(constants, name) for name in matrices]
        if first and all(others):
            value = _everywhere(first.value)
            matrix = f"every matrix of {layer_name.rstrip('.')}"
            _refuse_values(first, f"{matrix} is {value} ({matrices[0]})")


def _everywhere(value: float) -> str:
    """In words, that a tensor has one value."""
    return f"{value:g} everywhere" if value else "all zero"


def _refuse_values(constant: Constant, what: str) -> NoReturn:
    raise ModelError(
        f"{constant.place}: {what}, so nothing of what the model learned is left there: the file "
        "was not written or copied whole; save, copy or download it again"
    )


def _ends(model: Any) -> set[str]:
    """Names of the weights of a model's embeddings and its head."""
    modules = [model.get_input_embeddings(), model.get_output_embeddings()]
    ends = set[str]()
    for name, module in model.named_modules():
        if any(module is end for end in modules):
            ends.add(f"{name}.weight")
    return ends


def _outer_norms(model: torch.nn.Module) -> set[str]:
    """Names of the weights of norms that every token goes through, outside the layers."""
    norms = set[str]()
    for name, module in model.named_modules():
        if not LAYER.match(f"{name}.") and _starts_with_ones(module):
            norms.add(f"{name}.weight")
    return norms


def _starts_with_ones(module: torch.nn.Module) -> bool:
    """Whether a module is a norm whose weight is a factor, which is one before any training."""
    weight = getattr(module, "weight", None)
    if "norm" not in type(module).__name__.lower() or weight is None or weight.ndim != 1:
        return False
    try:
        with torch.device("cpu"):
            fresh = type(module)(len(weight))
    # a norm that is made in another way is not known
    except TypeError:
        return False
    return bool((fresh.weight == 1).all())


def _constant(constants: Mapping[str, Constant], name: str) -> Constant | None:
    """The tensor of that name, where it has one value only.

    Some files leave the first part of the name out.
    """
    return constants.get(name) or constants.get(name.partition(".")[2])


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
