"""What the weights of a run's checkpoints show by themselves, before anything is scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import Field
from safetensors import safe_open

from ilp_mlflow.core.errors import ModelError
from ilp_mlflow.core.terminal.progress import task
from ilp_mlflow.core.value import Value
from ilp_mlflow.scoring.models import loading, model_config
from ilp_mlflow.scoring.models.compared_weights import (
    Comparison,
    FileWeights,
    ModelWeights,
    Relation,
    Weights,
    compare_weights,
)
from ilp_mlflow.scoring.models.idle_adapters import why_idle
from ilp_mlflow.scoring.models.remade_ends import find_remade_ends
from ilp_mlflow.scoring.models.stacked_changes import shared_change
from ilp_mlflow.scoring.models.tokenization import read_tokenization
from ilp_mlflow.scoring.models.weight_files import ADAPTER_WEIGHTS, model_files, read_shapes
from ilp_mlflow.scoring.models.whole_weights import load_skeleton, quiet_libraries
from ilp_mlflow.scoring.tokens.encoding import Tokenization, gguf_option, has_tokenizer
from ilp_mlflow.tracking.model_registry import MLFLOW_URI, adapter_base, side_by_side

MAX_SHARED_CHANGE = 0.3
"""Share of what the adapter of a stage changed that the next one has, at most, where it was not
trained on from it: that would leave most of it."""
RANKS: Mapping[Relation, int] = {
    "same": 0,
    "tied": 1,
    "lost": 1,
    "quantised": 2,
    "base": 3,
    "scaled": 4,
    "other_base": 5,
    "other_weights": 6,
}
"""How well relations fit, the best first: a copy is one of the checkpoint that it fits best."""
NO_SETTINGS = (
    "_name_or_path",
    "architectures",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "pad_token_id",
    "quantization_config",
    "tie_word_embeddings",
    "transformers_version",
    "use_cache",
    "vocab_size",
)
"""Keys of a configuration that do not change what the same weights compute, or are said apart."""


class Copy(Value):
    """A checkpoint that was made of another one's weights without any training."""

    checkpoint: str
    """The copy."""
    source: str
    """The checkpoint before it, which it should be a copy of."""
    holds: str
    """The checkpoint whose weights it has."""
    stacked_on: str = ""
    """The checkpoint whose adapter is below that of `holds` in it, though files do not say so."""
    comparison: Comparison | None = None
    """How they stand to its own; None where its files cannot be compared."""
    form: str = ""
    """The quantised form it is stored in; "" for plain tensors."""
    settings: tuple[str, ...] = ()
    """What its config.json has otherwise: `rms_norm_eps 1e-05 (1e-06)`, then the source's."""
    reading: tuple[str, ...] = ()
    """How it reads and ends text otherwise: `chat template`."""

    @property
    def may_be_trained(self) -> bool:
        """Whether it may be trained on in place of copied: weights alone do not tell."""
        return self.comparison is not None and self.comparison.relation == "other_weights"


class WeightFacts(Value):
    """What weights show of the checkpoints of a run."""

    idle: dict[str, str] = Field(default_factory=dict)
    """Files of adapters that do nothing, by checkpoint."""
    unchanged: dict[str, str] = Field(default_factory=dict)
    """An earlier checkpoint with the same weights, by checkpoint."""
    copies: tuple[Copy, ...] = ()
    """Copies, in the order of the checkpoints."""
    apart: dict[str, str] = Field(default_factory=dict)
    """An earlier checkpoint whose adapter is not below, and not in, that of a checkpoint."""
    remade: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Embeddings of a full checkpoint that have nothing of an earlier one's, by checkpoint."""
    named_bases: dict[str, str] = Field(default_factory=dict)
    """What the adapter of a checkpoint names as its base, where that is not what it is put on."""


def read_weight_facts(parts: Mapping[str, Sequence[str]]) -> WeightFacts:
    """What shows without a model being loaded; `parts` of every checkpoint by name, base first."""
    idle, unchanged = {}, {}
    stages = [name for name in parts if "@" not in name]
    for place, name in enumerate(stages):
        *_, last = parts[name]
        reason = why_idle(last) if len(parts[name]) > 1 else ""
        if reason:
            idle[name] = f"{Path(last) / ADAPTER_WEIGHTS}: {reason}"
            continue
        for earlier in reversed(stages[:place]):
            if has_same_weights(parts[name], parts[earlier]):
                unchanged[name] = earlier
                break
    return WeightFacts(
        idle=idle,
        unchanged=unchanged,
        remade=_remade(parts),
        named_bases=_other_names(parts),
    )


def _remade(parts: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Embeddings of full checkpoints that have nothing of those of any earlier model."""
    remade = {}
    models: list[FileWeights] = []
    seen = set[str]()
    for name, (location, *_) in parts.items():
        if location in seen or not _files(location) or _quantised_form(location):
            continue
        seen.add(location)
        try:
            model, ends = _file_weights(location)
        except ModelError:
            # what cannot be loaded is refused elsewhere
            continue
        found = [find_remade_ends(model, earlier, ends) for earlier in models]
        if found and all(found):
            remade[name] = found[-1]
        models.append(model)
    return remade


def _other_names(parts: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Bases that adapters name and are not put on, since they are not here, by checkpoint."""
    names = {}
    for checkpoint, (base, *adapters) in parts.items():
        named = adapter_base(adapters[0]) if adapters else ""
        is_elsewhere = not MLFLOW_URI.match(named) and not Path(named).exists()
        if named and named != base and is_elsewhere:
            names[checkpoint] = named
    return names


def has_same_weights(parts: Sequence[str], others: Sequence[str]) -> bool:
    """Whether two models are made of the same tensors, whatever their files are called."""
    if len(parts) != len(others):
        return False
    for folder, other in zip(parts, others, strict=True):
        files, other_files = _files(folder), _files(other)
        if not files or not other_files:
            return folder == other
        if files != other_files and not _have_same_tensors(files, other_files):
            return False
    return True


def find_apart(parts: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Checkpoints whose adapter is on the base without that of an earlier stage in it or below it.

    By name, with the name of the earlier one. An adapter that was trained on as it is has the
    earlier one's change in it, and is none of them; nor is one where files cannot tell.
    """
    apart = {}
    for name, earlier in side_by_side(parts).items():
        # what a full model learned is in no factors
        if len(parts[earlier]) == 1:
            continue
        shared = shared_change(parts[name][-1], parts[earlier][-1])
        if shared is not None and shared <= MAX_SHARED_CHANGE:
            apart[name] = earlier
    return apart


def find_copies(parts: Mapping[str, Sequence[str]]) -> list[Copy]:
    """Full checkpoints behind another one that have its weights, or what is left of them.

    `parts` are those of every checkpoint by name, the base first. For a checkpoint with adapters
    that a full one follows, the model is loaded once; files are read tensor by tensor.
    Raises ModelError.
    """
    base, *stages = [name for name in parts if "@" not in name]
    copies: list[Copy] = []
    for place, name in enumerate(stages):
        certain = {copy.checkpoint for copy in copies if not copy.may_be_trained}
        before = [n for n in stages[:place] if n not in certain]
        if len(parts[name]) > 1 or not before:
            continue
        with task(f"compare the weights of {name}"):
            copy = _copy_of(name, before, base, parts)
        if copy is not None:
            copies.append(copy)
    return copies


def _copy_of(
    name: str, before: Sequence[str], base: str, parts: Mapping[str, Sequence[str]]
) -> Copy | None:
    """The checkpoint `name` as a copy of one of those `before`; None where it is none."""
    (location,) = parts[name]
    source = before[-1]
    form = _quantised_form(location)
    if form:
        # nobody trains all weights of a quantised model
        return Copy(checkpoint=name, source=source, holds=source, form=form)
    best: _Candidate | None = None
    found: Comparison | None = None
    for candidate in _candidates(before, parts):
        comparison = _compare(location, candidate.parts, parts[base])
        if comparison is None:
            continue
        if found is None or RANKS[comparison.relation] < RANKS[found.relation]:
            best, found = candidate, comparison
        if comparison.relation == "same":
            break
    if best is None:
        return None
    copy = Copy(checkpoint=name, source=source, holds=best.name, comparison=found)
    if copy.may_be_trained:
        return copy
    return Copy(
        checkpoint=name,
        source=source,
        holds=best.name,
        stacked_on=best.stacked_on,
        comparison=found,
        settings=tuple(_other_settings(location, parts[source][0])),
        reading=tuple(_other_reading([location], parts[source], parts[base])),
    )


class _Candidate(NamedTuple):
    """What a copy may be a copy of."""

    name: str
    """The checkpoint."""
    parts: Sequence[str]
    """What it is made of, then."""
    stacked_on: str = ""
    """The checkpoint whose adapter is below its own, then, though files do not say so."""


def _candidates(before: Sequence[str], parts: Mapping[str, Sequence[str]]) -> Iterator[_Candidate]:
    """What a copy behind the checkpoints `before` may be a copy of, the last one first."""
    beside = side_by_side(parts)
    for name in reversed(before):
        yield _Candidate(name, parts[name])
        if name in beside:
            below = beside[name]
            yield _Candidate(name, [*parts[below], parts[name][-1]], below)


def _compare(
    copy: str, source_parts: Sequence[str], base_parts: Sequence[str]
) -> Comparison | None:
    """How the full model in a folder stands to another; None where files cannot be compared."""
    below = source_parts[0]
    if not (_files(copy) and _files(below) and _files(base_parts[0])):
        return None
    try:
        copied, ends = _file_weights(copy)
        if len(source_parts) == 1:
            source: Weights = _file_weights(below)[0]
        else:
            loaded = loading.load_model(source_parts, merge=True)
            source = ModelWeights(loaded.model)
        # what an adapter changed, it changed in the model that it sits on
        on = below if len(source_parts) > 1 else base_parts[0]
        return compare_weights(copied, source, _file_weights(on)[0], ends)
    except ModelError:
        # adapters that cannot be merged
        return None


def _file_weights(location: str) -> tuple[FileWeights, tuple[str, str]]:
    """The weights in a model's files, and the names of its embeddings."""
    files, config = _files(location), model_config.read_config(location)
    skeleton: Any = load_skeleton(location, config, files)
    name_by_module = {module: name for name, module in skeleton.named_modules()}
    embeddings = (skeleton.get_input_embeddings(), skeleton.get_output_embeddings())
    ends = tuple(f"{name_by_module.get(module, '')}.weight" for module in embeddings)
    tied = bool(config.get_text_config().tie_word_embeddings)
    return FileWeights(files, (ends[0], ends[1]), tied), (ends[0], ends[1])


def _files(location: str) -> list[Path]:
    """The files with the tensors of a model or of an adapter; [] where they cannot be read so."""
    adapter = Path(location) / ADAPTER_WEIGHTS
    if adapter.exists():
        return [adapter]
    return [] if gguf_option(location) else model_files(location)


def _have_same_tensors(files: Sequence[Path], others: Sequence[Path]) -> bool:
    """Whether files hold the same tensors under the same names, bit by bit."""
    file_of = {}
    for path in others:
        file_of.update(dict.fromkeys(read_shapes(path), path))
    names = [name for path in files for name in read_shapes(path)]
    if set(names) != file_of.keys():
        return False
    for path in files:
        with safe_open(str(path), "pt") as file:
            for name in file.keys():  # noqa: SIM118
                with safe_open(str(file_of[name]), "pt") as other:
                    if not torch.equal(file.get_tensor(name), other.get_tensor(name)):
                        return False
    return True


def _quantised_form(location: str) -> str:
    """What a model is quantised by, "" where its tensors are plain numbers."""
    if gguf_option(location):
        return "GGUF"
    quantisation = getattr(model_config.read_config(location), "quantization_config", None)
    if quantisation is None:
        return ""
    if isinstance(quantisation, dict):
        return str(quantisation.get("quant_method", "quantised"))
    return str(getattr(quantisation, "quant_method", "quantised"))


def _other_settings(location: str, source: str) -> list[str]:
    """Keys of a model's configuration that have another value than in its source's."""
    own = model_config.read_config(location).get_text_config().to_dict()
    others = model_config.read_config(source).get_text_config().to_dict()
    different = []
    for key in sorted(set(own) | set(others)):
        if key not in NO_SETTINGS and own.get(key) != others.get(key):
            different.append(f"{key} {own.get(key)} ({others.get(key)})")
    return different


def _other_reading(
    parts: Sequence[str], source_parts: Sequence[str], base_parts: Sequence[str]
) -> list[str]:
    """What is otherwise in how a model reads and ends text than in its source."""
    if not any(map(has_tokenizer, parts)):
        return []
    with quiet_libraries():
        own = read_tokenization(parts, base=base_parts)
        other = read_tokenization(source_parts, base=base_parts)
    return different_reading(own, other)


def different_reading(own: Tokenization, other: Tokenization) -> list[str]:
    """What two models do otherwise with text: vocabulary, chat template, end tokens."""
    different = []
    if own.tokenizer.get_vocab() != other.tokenizer.get_vocab():
        different.append("vocabulary")
    if own.tokenizer.chat_template != other.tokenizer.chat_template:
        different.append("chat template")
    if own.end_token_ids != other.end_token_ids:
        different.append("end tokens")
    return different
