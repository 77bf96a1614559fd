"""The weights of a model set against those that it is said to be a copy of, tensor by tensor.

Three models are read side by side: the copy, its source (for an adapter: merged into its base), and
the base below the source. What the source changed in the base is what a copy can lose.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from safetensors import safe_open

from ilp_mlflow.core.value import Value

Relation = Literal[
    "same", "lost", "tied", "base", "quantised", "scaled", "other_base", "other_weights"
]
"""How a copy stands to its source.

same: equal within rounding. lost: equal, but for tensors that are the base's. tied: equal, but for
embeddings of which the copy has one for both ends. base: nothing of what the source changed is in
it. quantised: coarser. scaled: a part of every change. other_base: every change, in weights that
have nothing of the base's.
other_weights: every change, in weights that are otherwise far from the source's everywhere: those
of another base, or trained on.
"""
HALF = (torch.bfloat16, torch.float16)
MERGE_ERROR = 1e-5
"""Size of the error of merging in float32, as a share of the size of a tensor: the same
sums in another order, far below what training changes."""
HELD, LOST = 0.75, 0.25
"""A tensor holds what its source changed from the first share of it on, and lost it up to the
second. Errors of rounding cancel in it: a change of 3 % is held to 0.9999 in bfloat16."""
MAX_SCALED_ERROR = 0.05
"""How far apart the shares of a change in single tensors may be where all were scaled."""
OTHER_MODEL = 1.0
"""Difference from the base, as a share of the size of a tensor, that no fine-tuning makes."""
OTHER_WEIGHTS = 0.1
"""Difference from the source, as a share of the size of a tensor, that rounding to 8 bits does not
make, and that all matrices of a copy must show to be held to be other weights."""
BLOCK = 32
"""Values that share a scale in the finest of the usual 4-bit types."""
SAME_LEVEL = 5e-3
"""Difference of two values of one level, at most, as a share of the largest value: rounding to
bfloat16."""
LEVELS = {4: 16, 8: 256}
"""Values that a number of so many bits can have."""


@dataclass
class FileWeights:
    """Weights in safetensors files."""

    files: Sequence[Path]
    ends: tuple[str, str]
    """Names of the input and output embeddings."""
    tied: bool
    """Whether the configuration makes one tensor of them where only one is in the files."""

    def __post_init__(self) -> None:
        self._file_of: dict[str, Path] = {}
        for path in self.files:
            with safe_open(str(path), "pt") as file:
                self._file_of.update(dict.fromkeys(file.keys(), path))
        self.names = sorted(self._file_of)
        # both ends in the files are loaded as they are there, whatever the configuration says
        self.tied = self.tied and not all(end in self._file_of for end in self.ends)

    def get(self, name: str) -> torch.Tensor | None:
        """The tensor of that name; for one end of tied embeddings the other end's."""
        found = self._find_end(name)
        if found is None:
            return None
        with safe_open(str(self._file_of[found]), "pt") as file:
            tensor: torch.Tensor = file.get_tensor(found)
        return tensor

    def get_rows(self, name: str, start: int, end: int) -> torch.Tensor | None:
        """Rows `start` to `end` of the tensor of that name, as far as it has them."""
        found = self._find_end(name)
        if found is None:
            return None
        with safe_open(str(self._file_of[found]), "pt") as file:
            part = file.get_slice(found)
            if not part.get_shape():
                return None
            rows: torch.Tensor = part[start:end]
        return rows

    def count_rows(self, name: str) -> int:
        """Rows of the tensor of that name, 0 where there is none."""
        found = self._find_end(name)
        if found is None:
            return 0
        with safe_open(str(self._file_of[found]), "pt") as file:
            shape = file.get_slice(found).get_shape()
        return int(shape[0]) if shape else 0

    def _find_end(self, name: str) -> str | None:
        """The name in the files of a tensor; for one end of tied embeddings the other end's."""
        found = self._find(name)
        if found is None and self.tied and name in self.ends:
            return self._find(self.ends[1 - self.ends.index(name)])
        return found

    def _find(self, name: str) -> str | None:
        """The name in the files of a tensor: some are saved without the model's prefix."""
        if name in self._file_of:
            return name
        for known in self.names:
            if known.partition(".")[2] == name or name.partition(".")[2] == known:
                return known
        return None


class ModelWeights:
    """Weights of a model in memory."""

    def __init__(self, model: Any) -> None:
        self._tensors: Mapping[str, torch.Tensor] = model.state_dict()
        head = model.get_output_embeddings()
        self.tied = head is not None and head.weight is model.get_input_embeddings().weight
        self.names = sorted(self._tensors)

    def get(self, name: str) -> torch.Tensor | None:
        """The tensor of that name, None where there is none."""
        return self._tensors.get(name)


Weights = FileWeights | ModelWeights
"""The tensors of a model by name, read one at a time."""


@dataclass(frozen=True)
class TensorComparison:
    """One tensor of a copy beside those of its source and base."""

    name: str
    is_matrix: bool
    changed: bool
    """Whether the source has other values than the base."""
    held: float | None
    """Share of what the source changed that is in the copy; None where it changed nothing."""
    error: float
    """Difference from the source, as a share of the size of the source."""
    same: bool
    """Whether it is that of the source within rounding."""
    as_base: bool
    """Whether it is that of the base, rounded at most."""
    quantised: bool
    """Whether its values, or those without the change, are few levels times a scale."""


class Comparison(Value):
    """How the weights of a copy stand to those of its source."""

    relation: Relation
    tensors: int
    """Tensors compared."""
    changed: int
    """Tensors that the source changed in the base."""
    lost: tuple[str, ...] = ()
    """Names of those whose change is not in the copy."""
    error: float = 0.0
    """Largest difference of a tensor from the source's, as a share of its size."""
    change: float = 0.0
    """Size of what the source changed, as a share of the size of a tensor: median."""
    held: float = 1.0
    """Share of the change that is in the copy: median."""
    apart: float = 0.0
    """Smallest difference of a matrix from the source's, as a share of its size."""
    dtype: str = ""
    """What the copy is stored in."""


def compare_weights(
    copy: Weights, source: Weights, base: Weights, ends: tuple[str, str]
) -> Comparison | None:
    """How a copy stands to its source; None where it is no copy but a model of its own.

    `ends` are the names of the embeddings. None also where fewer than all of the source's tensors
    can be set against those of the others.
    """
    found, dtypes, changes = [], set[torch.dtype](), []
    # what is read from files was not merged: a copy is equal to it but for its type
    merged = isinstance(source, ModelWeights)
    for name in source.names if merged else dict.fromkeys([*source.names, *copy.names]):
        tensors = _read_all(name, (copy, source, base))
        if tensors is None:
            return None
        of_copy, of_source, of_base = tensors
        compared, change = compare_tensor(name, of_copy, of_source, of_base, merged)
        found.append(compared)
        dtypes.add(of_copy.dtype)
        if compared.changed:
            changes.append(change)
        elif not merged and not (compared.same or compared.as_base or compared.quantised):
            return None
    relation = _relation(found, copy, source, ends)
    if relation is None and merged:
        relation = _other_weights(found)
    if relation is None:
        return None
    of_changed = [tensor for tensor in found if tensor.changed]
    held = [tensor.held for tensor in of_changed if tensor.held is not None]
    return Comparison(
        relation=relation,
        tensors=len(found),
        changed=len(of_changed),
        lost=tuple(_lost(found, relation, ends)),
        error=max((tensor.error for tensor in found), default=0.0),
        change=median(changes) if changes else 0.0,
        held=median(held) if held else 1.0,
        apart=min((tensor.error for tensor in found if tensor.is_matrix), default=0.0),
        dtype=", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes)),
    )


def compare_tensor(
    name: str,
    of_copy: torch.Tensor,
    of_source: torch.Tensor,
    of_base: torch.Tensor,
    merged: bool,
) -> tuple[TensorComparison, float]:
    """One tensor of a copy beside its source's and base's, and the size of what the source changed.

    That is a share of the size of the base's. `merged`: the source was computed, so that a copy is
    equal to it only within the rounding of the types.
    """
    as_base = is_rounding_of(of_copy, of_base)
    copy, source, base = of_copy.float(), of_source.float(), of_base.float()
    difference, change = source - base, _size(source - base) / (_size(base) or 1.0)
    changed = change > MERGE_ERROR
    error = _size(copy - source) / (_size(source) or 1.0)
    held = None
    if changed:
        held = float((copy - base).flatten().double() @ difference.flatten().double())
        held /= _size(difference) ** 2
    if changed and merged:
        allowed = max(MERGE_ERROR, _rounding(of_copy), _rounding(of_base))
        same = error <= allowed and held is not None and held >= HELD
    else:
        same = is_rounding_of(of_copy, of_source) or (merged and as_base)
    few_levels = not same and not as_base and has_few_levels(copy)
    few_levels = few_levels or (not same and changed and has_few_levels(copy - difference))
    return (
        TensorComparison(
            name=name,
            is_matrix=of_copy.dim() > 1,
            changed=changed,
            held=held,
            error=error,
            same=same,
            as_base=as_base,
            quantised=few_levels,
        ),
        change,
    )


def is_rounding_of(tensor: torch.Tensor, exact: torch.Tensor) -> bool:
    """Whether a tensor has the values of another one, in its own type or through one of 16 bits."""
    for dtype in (tensor.dtype, *HALF):
        if torch.equal(exact.to(dtype).to(tensor.dtype), tensor):
            return True
    return False


def has_few_levels(tensor: torch.Tensor) -> bool:
    """Whether the values of a matrix are few levels times a scale, as a quantised one gives them.

    4 bits: a block of values has at most 16 different ones. 8 bits: the values of a row, or of the
    whole matrix, are whole parts of the largest one.
    """
    if tensor.dim() < 2 or tensor.shape[-1] < 2 * LEVELS[4]:
        return False
    rows = tensor.reshape(-1, tensor.shape[-1])[:BLOCK]
    blocks = rows[:, : tensor.shape[-1] // BLOCK * BLOCK].reshape(-1, BLOCK)
    values = blocks[: 4 * BLOCK].sort(dim=1).values
    # the same level, but for rounding
    steps = values.diff(dim=1) > SAME_LEVEL * values.abs().amax(dim=1, keepdim=True)
    if int(steps.sum(dim=1).max()) < LEVELS[4]:
        return True
    for largest in (rows.abs().amax(dim=1, keepdim=True), tensor.abs().max()):
        levels = rows / largest.clamp(min=torch.finfo(torch.float32).tiny) * (LEVELS[8] // 2 - 1)
        if float((levels - levels.round()).abs().max()) < 0.01:
            return True
    return False


def _read_all(name: str, models: Sequence[Weights]) -> list[torch.Tensor] | None:
    """The tensor of that name in all models, cut to the rows that all have.

    None where one lacks it, or has it in another shape.
    """
    tensors = []
    for weights in models:
        tensor = weights.get(name)
        if tensor is None:
            return None
        tensors.append(tensor)
    if len({tensor.shape[1:] for tensor in tensors}) > 1:
        return None
    if not tensors[0].shape:
        return tensors
    # embeddings may have been padded
    rows = min(len(tensor) for tensor in tensors)
    return [tensor[:rows] for tensor in tensors]


def _size(tensor: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.double()))


def _rounding(tensor: torch.Tensor) -> float:
    """Largest error, as a share, of the type that a tensor is in, or that it was in before."""
    for dtype in HALF:
        if torch.equal(tensor.to(dtype).to(tensor.dtype), tensor):
            return torch.finfo(dtype).eps
    return torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else 0.0


def _relation(
    found: Sequence[TensorComparison], copy: Weights, source: Weights, ends: tuple[str, str]
) -> Relation | None:
    """How a copy stands to its source by its tensors."""
    changed = [tensor for tensor in found if tensor.changed]
    if not changed:
        return "same" if all(tensor.same for tensor in found) else None
    if all(tensor.same for tensor in found):
        return "same"
    if all(tensor.as_base for tensor in changed) and _explained(found):
        return "base"
    if _explained(found):
        return "lost"
    is_tied = copy.tied and not source.tied
    if is_tied and _explained([tensor for tensor in found if tensor.name not in ends]):
        return "tied"
    if all(_explains(tensor) or tensor.quantised for tensor in found if tensor.is_matrix):
        return "quantised"
    shares = [tensor.held for tensor in changed if tensor.held is not None]
    unchanged = [tensor for tensor in found if not tensor.changed]
    is_even = max(shares) - min(shares) <= MAX_SCALED_ERROR
    if _explained(unchanged) and is_even and not HELD <= min(shares) <= 2 - HELD:
        return "scaled"
    return None


def _other_weights(found: Sequence[TensorComparison]) -> Relation | None:
    """How a copy stands to its source that holds its changes in other weights; None: it does not.

    What it holds of a change is known but roughly in small tensors that differ much, so the middle
    of all counts.
    """
    shares = [tensor.held for tensor in found if tensor.held is not None]
    apart = [tensor.error for tensor in found if tensor.is_matrix]
    if not shares or not apart or not HELD <= median(shares) <= 2 - HELD:
        return None
    untouched = [tensor.error for tensor in found if tensor.is_matrix and not tensor.changed]
    if untouched and min(untouched) >= OTHER_MODEL:
        return "other_base"
    return "other_weights" if min(apart) >= OTHER_WEIGHTS else None


def _explained(found: Sequence[TensorComparison]) -> bool:
    return all(map(_explains, found))


def _explains(tensor: TensorComparison) -> bool:
    return tensor.same or tensor.as_base


def _lost(
    found: Sequence[TensorComparison], relation: Relation, ends: tuple[str, str]
) -> Iterator[str]:
    """Names of the tensors whose change is not in the copy, or that are those of the other end."""
    for tensor in found:
        is_other_end = relation == "tied" and tensor.name in ends and not tensor.same
        if is_other_end or (tensor.held is not None and tensor.held <= LOST):
            yield tensor.name
