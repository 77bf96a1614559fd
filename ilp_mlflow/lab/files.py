"""The files of a lab's world, made in the cache when an experiment asks for them; what was planted is in none of them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ilp_mlflow import cache
from ilp_mlflow.config import LAB, Experiment
from ilp_mlflow.errors import ConfigError, suggest
from ilp_mlflow.lab import base
from ilp_mlflow.lab.plant import Counts, Planted, Row, plant, record
from ilp_mlflow.lab.world import Size, World, make

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


@dataclass(frozen=True)
class Made:
    """A world with its base model and rows."""

    world: World
    planted: Planted
    seed: int
    model: Path
    """Folder of the base model."""


def prepare(size: str, seed: int) -> Made:
    """The world of a size and seed; its base is trained unless the cache has it. Raises ConfigError, ModelError."""
    if size not in SIZES:
        raise ConfigError(f"no lab of size '{size}'; {suggest(size, SIZES)}")
    dimensions, counts = SIZES[size]
    world = make(seed, dimensions)
    model = base.folder(world, seed)
    return Made(world, plant(world, counts, seed), seed, model)


def resolve(experiment: Experiment) -> tuple[Experiment, Made]:
    """An experiment whose locations begin with `lab:SIZE/`, with paths of real files in their place, and what they hold.

    Raises ConfigError when locations are of several sizes or of a file the lab does not make.
    """
    locations = {experiment.model, *(s.data.path or "" for s in experiment.stages)}
    sizes = sorted({x.removeprefix(LAB).partition("/")[0] for x in locations if x.startswith(LAB)})
    if len(sizes) > 1:
        raise ConfigError(f"experiment '{experiment.name}' mixes the labs {' and '.join(sizes)}; use one")
    made = prepare(sizes[0], experiment.seed)
    paths = write(made.planted.stages, f"{sizes[0]}-{experiment.seed}") | {"base": made.model}

    def path(location: str | None) -> str | None:
        if location is None or not location.startswith(LAB):
            return location
        name = location.partition("/")[2]
        if name not in paths:
            raise ConfigError(f"{location}: the lab makes no such file; {suggest(name, paths)}")
        return str(paths[name])

    stages = tuple(s.model_copy(update={"data": s.data.model_copy(update={"path": path(s.data.path)})}) for s in experiment.stages)
    return experiment.model_copy(update={"model": path(experiment.model), "stages": stages}), made


def write(stages: Mapping[str, Iterable[Row]], name: str) -> dict[str, Path]:
    """Write the rows of stages as JSON Lines, by file name; what they were planted for is not in them."""
    folder = cache.folder() / "lab" / name
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for stage, rows in stages.items():
        paths[f"{stage}.jsonl"] = path = folder / f"{stage}.jsonl"
        text = "".join(json.dumps(record(row, stage)) + "\n" for row in rows)
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False, encoding="utf-8") as file:
            file.write(text)
        os.replace(file.name, path)
    return paths
