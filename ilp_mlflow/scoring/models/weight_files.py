"""Files of weights as they lie on disk: which are read, what their headers say, what they hold."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import xxhash
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open

from ilp_mlflow.core.errors import ModelError, first_line
from ilp_mlflow.core.lfs_pointers import FAULT, is_lfs_pointer
from ilp_mlflow.core.terminal.progress import MB, task
from ilp_mlflow.tracking.model_digest import PICKLES

WEIGHTS = "model.safetensors"
"""The file of a model whose weights are in one file."""
INDEX = "model.safetensors.index.json"
"""The file that says in which shard each tensor of a model is."""
ADAPTER_WEIGHTS = "adapter_model.safetensors"
"""The file with the weights of an adapter."""
CHUNK = 2**20
"""Values that are digested at a time, so that they stay in the processor's cache."""
SMALL_FLOATS = ("F8_", "F6_", "F4")
"""How types of numbers of a byte or less begin, as safetensors calls them."""
CODE = re.compile(r"(weight|_proj)$")
"""Ends of the names of tensors that multiply: as whole numbers they need scales to mean anything.
Masks and positions, which are whole numbers in healthy files, have other names."""

Shapes = Mapping[str, tuple[int, ...]]
"""Shape of every tensor of a file, by name."""


def model_files(location: str) -> list[Path]:
    """The safetensors files that a full model is read from.

    `location` is a folder, or the id of a Hub model; [] for one that is not on this machine yet.
    Raises ModelError when the folder has no such files, or lacks one that its index names.
    """
    folder = Path(location)
    if not folder.is_dir():
        config = try_to_load_from_cache(location, "config.json")
        if not isinstance(config, str):
            return []
        folder = Path(config).parent
        # a Hub model is fetched file by file: what is not here yet comes when it is loaded
        if not (folder / WEIGHTS).exists() and not (folder / INDEX).exists():
            return []
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if (folder / INDEX).exists():
        return _shards(folder / INDEX)
    raise ModelError(f"{location}: {_without_weights(folder)}; save the model as safetensors")


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of a safetensors file, from its header.

    Raises ModelError when the file is damaged: opening compares its header with its size.
    """
    try:
        with safe_open(str(path), "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        if is_lfs_pointer(path):
            raise ModelError(f"{path}: {FAULT}") from None
        raise ModelError(
            f"{path}: damaged ({first_line(error)}); copy or download it again"
        ) from None


def refuse_codes(paths: Sequence[Path]) -> None:
    """Raise ModelError for the first weight stored as whole numbers, or as numbers of one byte.

    Such weights were quantised, and mean something with their scales only. Only headers are read.
    """
    for path in paths:
        with safe_open(str(path), "pt") as file:
            for name in file.keys():  # noqa: SIM118
                kind = file.get_slice(name).get_dtype()
                is_code = kind[:1] in "IUB" and kind != "BF16" and CODE.search(name)
                if is_code or kind.startswith(SMALL_FLOATS):
                    raise ModelError(
                        f"{path}: {name} is stored as {kind}, quantised, and no "
                        "quantization_config in config.json says in a known way how: its values "
                        "are no weights; take the config.json that they were saved with, or the "
                        "weights before that"
                    )


def refuse_not_finite(paths: Sequence[Path]) -> None:
    """Raise ModelError for the first tensor of the files that holds nan or infinity.

    Every byte is read, once per process: about as fast as the disk gives it.
    """
    for path in paths:
        _constants(path, *_state(path))


class Constant(NamedTuple):
    """A tensor of which every value is the same."""

    value: float
    """The value."""
    place: str
    """The file or the model that has it."""


def constant_tensors(paths: Sequence[Path]) -> dict[str, Constant]:
    """Tensors of which every value is the same, by name.

    Raises ModelError as `refuse_not_finite` does, and reads what that reads.
    """
    constants = {}
    for path in paths:
        for name, value in _constants(path, *_state(path)).items():
            constants[name] = Constant(value, str(path))
    return constants


def _state(path: Path) -> tuple[int, int]:
    """Size and time of change of a file, which tell it from what was there before."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@functools.cache
def _constants(path: Path, size: int, changed: int) -> dict[str, float]:
    """The value of tensors of a file that have only one; `size` (bytes), `changed`: `_state`.

    Raises ModelError for the first one that is not finite.
    """
    constants = {}
    with task(f"check weights of {path.parent.name}", size / MB, "MB") as advance:
        for name, weights in _read_tensors(path):
            if not is_finite(weights):
                raise ModelError(
                    f"{path}: {name} is not finite (nan or infinite); "
                    "the training diverged: take an earlier checkpoint"
                )
            value = constant_value(weights)
            if value is not None:
                constants[name] = value
            advance(weights.numel() * weights.element_size() / MB)
    return constants


def tensor_digests(paths: Sequence[Path]) -> dict[str, str]:
    """A digest of every tensor of some files, by name: of all its values as float32.

    It tells a model from another of the same shape, whatever files and types they are stored in.
    Every byte is read, once per process.
    """
    digests = dict[str, str]()
    for path in paths:
        digests.update(_tensor_digests(path, *_state(path)))
    return digests


@functools.cache
def _tensor_digests(path: Path, size: int, changed: int) -> dict[str, str]:
    """The digests of one file; `size` in bytes and `changed` see `_state`."""
    digests = {}
    with task(f"compare weights of {path.parent.name}", size / MB, "MB") as advance:
        for name, weights in _read_tensors(path):
            digests[name] = _digest(weights)
            advance(weights.numel() * weights.element_size() / MB)
    return digests


def _digest(weights: torch.Tensor) -> str:
    # fast, and nobody makes a base that collides on purpose
    digest = xxhash.xxh3_128(str(tuple(weights.shape)).encode())
    for chunk in weights.flatten().split(CHUNK):
        values: Any = chunk.float() if chunk.is_floating_point() else chunk
        digest.update(values.numpy())
    return digest.hexdigest()


def constant_value(weights: torch.Tensor) -> float | None:
    """The value that a tensor has everywhere; None where there are several, or none."""
    if weights.is_meta or not weights.numel():
        return None
    values = weights.flatten()
    first = values[0]
    # of nearly all tensors the first values tell
    for chunk in (values[:2], *values.split(CHUNK)):
        if not torch.equal(chunk, first.expand_as(chunk)):
            return None
    return float(first)


def is_finite(weights: torch.Tensor) -> bool:
    """Whether every value is a finite number."""
    if not weights.is_floating_point() or weights.is_meta:
        return True
    # nan and infinity carry over into a sum, which needs no copy of the tensor; but so can the
    # largest finite numbers, and types of one byte cannot be added
    if weights.element_size() > 1 and torch.isfinite(weights.sum(dtype=torch.float32)):
        return True
    return bool(torch.isfinite(weights.float()).all())


def _read_tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    with safe_open(str(path), "pt") as file:
        for name in file.keys():  # noqa: SIM118
            yield name, file.get_tensor(name)


def _shards(index: Path) -> list[Path]:
    """The files that an index names. Raises ModelError when one is missing or it is not valid."""
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        names = content["weight_map"].values()
        # transformers wants both
        content["metadata"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{index}: not a valid index; copy or download it again") from None
    shards = [index.parent / name for name in sorted(set(names))]
    if not shards:
        raise ModelError(f"{index}: names no file; copy or download it again")
    for shard in shards:
        if not shard.exists():
            raise ModelError(
                f"{shard}: missing, but {index.name} names it; copy or download it again"
            )
    return shards


def _without_weights(folder: Path) -> str:
    """What a folder without safetensors has instead, for an error message."""
    for pattern in PICKLES:
        for path in folder.glob(pattern):
            return f"only pickled weights ({path.name}), which can run code"
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    if others:
        return f"{others[0]} is there, but neither {WEIGHTS} nor {INDEX}"
    return "no weights"
