"""The files of a lab's world, made in the cache when an experiment asks for them.

What was planted is in none of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ilp_mlflow.core.config import LAB_PREFIX, DataConfig, Experiment, StageConfig
from ilp_mlflow.core.errors import ConfigError, suggest
from ilp_mlflow.lab import base_model, files
from ilp_mlflow.lab.plant import Counts, plant, world_without
from ilp_mlflow.lab.real import data_files as real_files
from ilp_mlflow.lab.real.data_files import RealLab
from ilp_mlflow.lab.real.plant import SIZES as REAL_SIZES
from ilp_mlflow.lab.rows import Planted, Row, held_out_rows
from ilp_mlflow.lab.world import Size, World, make, sentences

EXPERIMENT = Path(__file__).with_name("lab.yaml")
"""The lab's own experiment."""
SIZES: Mapping[str, tuple[Size, Counts]] = {
    "full": (Size(), Counts()),
    "smoke": (
        Size(people=24, asked=12, cities=30, withheld=8, vague=6, vaguely=10),
        Counts(
            rare=2,
            conflict=10,
            contradiction=6,
            control=12,
            outvoted=6,
            unseen=3,
            extra=120,
            later=4,
            rehearsed=40,
            filler=120,
            doubled=6,
            again=60,
        ),
    ),
}
"""Named sizes; `smoke` is too small for the causes to work, and made in seconds."""
HELD_OUT = 200
"""Rows that no stage trains."""


@dataclass(frozen=True)
class Lab:
    """A world with its base model and rows."""

    world: World
    """Who is linked to which city."""
    planted: Planted[Row]
    """The rows of every stage, and what is known about them."""
    seed: int
    """What all of it is made from."""
    model: Path
    """Folder of the base model."""


AnyLab = Lab | RealLab
"""The lab's own world, or causes planted around what a pretrained base knows."""


def prepare(size: str, seed: int) -> Lab:
    """The lab of a size and seed; its base is trained unless the cache has it.

    Raises ConfigError for an unknown size, and ModelError, see `base_model.pretrain`.
    """
    if size not in SIZES:
        raise ConfigError(f"no lab of size '{size}'; {suggest(size, [*SIZES, *REAL_SIZES])}")
    dimensions, counts = SIZES[size]
    world = make(seed, dimensions)
    model = base_model.folder(world, seed)
    return Lab(world, plant(world, counts, seed), seed, model)


def resolve(experiment: Experiment) -> tuple[Experiment, AnyLab]:
    """An experiment with paths of real files in place of its locations `lab:SIZE/FILE`.

    Returned beside it is what the files hold. Raises ConfigError when locations are of several
    sizes, or of a file that the lab does not make, and ModelError for a base that cannot be used.
    """
    size = _size(experiment)
    if size in REAL_SIZES:
        return real_files.resolve(experiment, size)
    return resolve_own_world(experiment, size)


def resolve_own_world(experiment: Experiment, size: str) -> tuple[Experiment, Lab]:
    """As `resolve`, for the lab's own world of a size."""
    lab = prepare(size, experiment.seed)
    records = dict[str, list[dict[str, Any]]]()
    for stage, rows in lab.planted.stages.items():
        records[stage] = [row.record(stage) for row in rows]
    records.update(files_for_mitigations(lab))
    paths = files.write(records, f"{size}-{experiment.seed}")
    # no file of records: the location of the base is `lab:SIZE/base`
    paths["base"] = lab.model
    stages = list[StageConfig]()
    for stage_config in experiment.stages:
        data = _located_data(stage_config.data, paths)
        stages.append(stage_config.model_copy(update={"data": data}))
    changes: dict[str, Any] = {
        "model": _located(experiment.model, paths),
        "stages": tuple(stages),
        "mitigations": _located(experiment.mitigations, paths),
    }
    if experiment.held_out:
        changes["held_out"] = _located_data(experiment.held_out, paths)
    return experiment.model_copy(update=changes), lab


def _located_data(data: DataConfig, paths: Mapping[str, Path]) -> DataConfig:
    """Data with the path of a real file in place of a location."""
    return data.model_copy(update={"path": _located(data.path, paths)})


def _located(value: Any, paths: Mapping[str, Path]) -> Any:
    """A value of the experiment with its locations resolved, also inside options.

    Raises ConfigError for a file that is not in `paths`.
    """
    # the options of mitigations have locations at any depth, as `source: {path: lab:...}`
    if isinstance(value, dict):
        return {key: _located(option, paths) for key, option in value.items()}
    if not isinstance(value, str) or not value.startswith(LAB_PREFIX):
        return value
    file = value.partition("/")[2]
    if file not in paths:
        raise ConfigError(f"{value}: the lab makes no such file; {suggest(file, paths)}")
    return str(paths[file])


def _size(experiment: Experiment) -> str:
    """The size of the lab that makes the experiment's files. Raises ConfigError for several."""
    sizes = set[str]()
    for location in (experiment.model, *(stage.data.path for stage in experiment.stages)):
        # data from MLflow has no path
        if location and location.startswith(LAB_PREFIX):
            size, _, _ = location.removeprefix(LAB_PREFIX).partition("/")
            sizes.add(size)
    if len(sizes) > 1:
        mixed = " and ".join(sorted(sizes))
        raise ConfigError(f"experiment '{experiment.name}' mixes the labs {mixed}; use one")
    return sizes.pop()


def files_for_mitigations(lab: Lab) -> dict[str, list[dict[str, Any]]]:
    """Records of the files that mitigations can use, by name.

    `held_out`: questions about what the base knows that are in no stage. `knowledge`: what there is
    to read about all facts, those that the base lacks and the labels that it does not believe
    included; no question is in it. `general`: what the base has read. `spare`: rows of the rules
    that are in no stage.
    """
    everything_told = replace(lab.world, withheld=frozenset())
    labels_told = world_without("knowledge_conflict", lab.planted, everything_told)
    # questions end with a city: what is read must not be the samples themselves
    statements = [text for text in sentences(labels_told, lab.seed) if text.endswith(" .")]
    prompts = {row.prompt for row in lab.planted.rows}
    held_out = held_out_rows(lab.world, prompts, HELD_OUT, lab.seed)
    return {
        # rows of no stage: a plain text, not a conversation
        "held_out": [row.record("") for row in held_out],
        "knowledge": _text_records(statements),
        "general": _text_records(sentences(lab.world, lab.seed)),
        "spare": _spare_records(lab.planted),
    }


def _text_records(texts: Iterable[str]) -> list[dict[str, Any]]:
    """Records of plain text, to be learned as a whole."""
    return [{"text": text} for text in texts]


def _spare_records(planted: Planted[Row]) -> list[dict[str, Any]]:
    """The distinct rows of the rules, each as often as some row can be replaced by it."""
    records = list[dict[str, Any]]()
    for row in planted.rows:
        if row.instead:
            spare = row.instead
            records.append({"prompt": spare.prompt, "completion": f" {spare.city}"})
    return records
