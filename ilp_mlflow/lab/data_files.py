"""The files of a lab's world, made in the cache when an experiment asks for them; what was planted is in none of them."""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ilp_mlflow.core import cache
from ilp_mlflow.core.config import LAB_PREFIX, Experiment
from ilp_mlflow.core.errors import ConfigError, suggest
from ilp_mlflow.lab import base_model
from ilp_mlflow.lab.plant import Counts, Planted, plant, record, told_without, unasked
from ilp_mlflow.lab.world import Size, World, make, told

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
    model = base_model.folder(world, seed)
    return Made(world, plant(world, counts, seed), seed, model)


def resolve(experiment: Experiment) -> tuple[Experiment, Made]:
    """An experiment whose locations begin with `lab:SIZE/`, with paths of real files in their place, and what they hold.

    Raises ConfigError when locations are of several sizes or of a file the lab does not make.
    """
    locations = {experiment.model, *(s.data.path or "" for s in experiment.stages)}
    sizes = sorted(
        {
            x.removeprefix(LAB_PREFIX).partition("/")[0]
            for x in locations
            if x.startswith(LAB_PREFIX)
        }
    )
    if len(sizes) > 1:
        raise ConfigError(
            f"experiment '{experiment.name}' mixes the labs {' and '.join(sizes)}; use one"
        )
    made = prepare(sizes[0], experiment.seed)
    name = f"{sizes[0]}-{experiment.seed}"
    records = {
        stage: [record(row, stage) for row in rows] for stage, rows in made.planted.stages.items()
    }
    paths = write({**records, **library(made)}, name) | {"base": made.model}

    def path(location: Any) -> Any:
        if isinstance(location, dict):
            return {key: path(value) for key, value in location.items()}
        if not isinstance(location, str) or not location.startswith(LAB_PREFIX):
            return location
        file = location.partition("/")[2]
        if file not in paths:
            raise ConfigError(f"{location}: the lab makes no such file; {suggest(file, paths)}")
        return str(paths[file])

    stages = tuple(
        s.model_copy(update={"data": s.data.model_copy(update={"path": path(s.data.path)})})
        for s in experiment.stages
    )
    held_out = experiment.held_out and experiment.held_out.model_copy(
        update={"path": path(experiment.held_out.path)}
    )
    changed = {
        "model": path(experiment.model),
        "stages": stages,
        "held_out": held_out,
        "mitigations": path(experiment.mitigations),
    }
    return experiment.model_copy(update=changed), made


def library(made: Made) -> dict[str, list[dict[str, Any]]]:
    """Records of the files that mitigations can use, by name.

    `held_out`: questions about what the base knows that are in no stage. `knowledge`: what there is to read about all facts, those
    that the base lacks and the labels that it does not believe included; no question is in it. `general`: what the base has read.
    `spare`: rows of the rules that are in no stage.
    """
    labels = told_without(
        "knowledge_conflict", made.planted, replace(made.world, withheld=frozenset())
    )
    texts = [text for text in told(labels, made.seed) if text.endswith(" .")]
    spare = [row.instead for row in itertools.chain(*made.planted.stages.values()) if row.instead]
    given = {row.prompt for rows in made.planted.stages.values() for row in rows}
    return {
        "held_out": [record(row, "") for row in unasked(made.world, given, HELD_OUT, made.seed)],
        "knowledge": [{"text": text} for text in texts],
        "general": [{"text": text} for text in told(made.world, made.seed)],
        "spare": [{"prompt": row.prompt, "completion": f" {row.city}"} for row in spare],
    }


def write(files: Mapping[str, Iterable[Mapping[str, Any]]], name: str) -> dict[str, Path]:
    """Write records as JSON Lines, by file name, in the cache folder `name`."""
    folder = cache.folder() / "lab" / name
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for stem, records in files.items():
        paths[f"{stem}.jsonl"] = path = folder / f"{stem}.jsonl"
        text = "".join(json.dumps(record) + "\n" for record in records)
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False, encoding="utf-8") as file:
            file.write(text)
        os.replace(file.name, path)
    return paths
