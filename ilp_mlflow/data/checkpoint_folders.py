"""Models trained elsewhere: what a trainer left in its folders becomes checkpoints, and rows beside them an experiment."""

from __future__ import annotations

import filecmp
import json
import re
from collections.abc import Sequence
from pathlib import Path

from ilp_mlflow.core import config
from ilp_mlflow.core.config import Experiment, ScoringConfig
from ilp_mlflow.core.errors import ConfigError, ModelError, suggest
from ilp_mlflow.core.values import Checkpoint

STEP = re.compile(r"checkpoint-(\d+)")
"""Name of the folder that trainers keep for an optimizer step."""
WEIGHTS = ("*.safetensors", "*.gguf", "*model*.bin")
"""Files that make a folder a model; the pickled ones only so that they are refused by name."""


def find_checkpoints(given: Sequence[str]) -> list[Checkpoint]:
    """The checkpoints written as NAME=LOCATION (folder, MLflow URI or Hub id), the base first.

    An output folder of TRL, LLaMA-Factory or axolotl is read as all that is in it: NAME is the model or adapter in the folder
    itself, else in `merged`, else its highest `checkpoint-N`; before it comes NAME@N for every other `checkpoint-N` with weights of
    its own. Of the base only NAME is taken. Raises ConfigError when none is given, one is not written so or a name is given twice,
    ModelError when a folder is not there or holds no weights.
    """
    if not given:
        raise ConfigError("--checkpoint: missing; give NAME=LOCATION, the base first")
    found: dict[str, list[Checkpoint]] = {}
    for text in given:
        name, _, location = text.partition("=")
        if not (name and location):
            raise ConfigError(
                f"--checkpoint '{text}': write NAME=LOCATION, for example base=HuggingFaceTB/SmolLM2-135M"
            )
        if not re.match(config.NAME_PATTERN, name):
            raise ConfigError(
                f"--checkpoint '{text}': a name is made of letters, digits, '-' and '_', got '{name}'"
            )
        if name in found:
            raise ConfigError(
                f"--checkpoint: name '{name}' is given twice; use NAME=LOCATION with a name of its own for each"
            )
        found[name] = _inside(name, location) if found else _inside(name, location)[-1:]
    return [checkpoint for own in found.values() for checkpoint in own]


def experiment_for(
    found: Sequence[Checkpoint], data: Sequence[str], seed: str = "", **scoring: str
) -> Experiment:
    """An experiment whose stages have made the checkpoints `found`, with rows and scoring options as written on the command line.

    `data` are files, or NAME=FILE for the rows of the stage that made checkpoint NAME; without a name it is the last one. Options
    that are "" keep their defaults. Raises ConfigError when no checkpoint comes after the base, when a NAME is none of those or has
    rows already, and when an option does not fit.
    """
    base, *names = (c.name for c in found if "@" not in c.name)
    if not names:
        raise ConfigError(
            f"--checkpoint: '{base}' is the base; give the models trained from it, too"
        )
    files: dict[str, str] = {}
    for text in data:
        name, _, file = text.partition("=") if "=" in text else (names[-1], "", text)
        if name not in names:
            hint = (
                f", or write {names[-1]}={text} for a file of that name"
                if Path(text).exists()
                else ""
            )
            raise ConfigError(
                f"--data {text}: '{name}' is no checkpoint after the base; {suggest(name, names)}{hint}"
            )
        if name in files:
            raise ConfigError(
                f"--data {text}: '{name}' has its rows from {files[name]}; put them into one file"
            )
        files[name] = file
    return config.parse_parameters(
        Experiment,
        {
            "name": names[-1],
            "model": found[0].model_uri,
            "stages": [
                {"name": n, "data": config.resolve_location(files[n], Path.cwd())}
                for n in names
                if n in files
            ],
            "scoring": config.parse_parameters(ScoringConfig, scoring),
            "tracking": {"experiment": "elsewhere"},
            "seed": seed,
        },
    )


def _inside(name: str, location: str) -> list[Checkpoint]:
    """The checkpoints in a local folder, the final one last; any other location is one checkpoint."""
    folder = Path(location).expanduser().absolute()
    if location.startswith((".", "/", "~")) and not folder.exists():
        raise ModelError(f"{location}: no such folder; check the path")
    if not folder.is_dir():
        return [Checkpoint(name=name, model_uri=location)]
    numbered = ((STEP.fullmatch(path.name), path) for path in folder.iterdir() if path.is_dir())
    steps = sorted((int(step[1]), path) for step, path in numbered if step and _weights(path))
    final = next((path for path in (folder, folder / "merged") if _weights(path)), None)
    if final is None:
        if not steps:
            raise ModelError(
                f"{location}: no weights in it, in 'merged' or in a 'checkpoint-N'; give the folder of a model"
            )
        final = steps.pop()[1]
    kept = [(step, path) for step, path in steps if not _same(step, path, final)]
    before = [
        Checkpoint(name=f"{name}@{step}", model_uri=str(path), step=step) for step, path in kept
    ]
    return [*before, Checkpoint(name=name, model_uri=str(final))]


def _weights(folder: Path) -> list[str]:
    """Names of the files with weights in a folder."""
    return sorted(path.name for pattern in WEIGHTS for path in folder.glob(pattern))


def _same(step: int, path: Path, final: Path) -> bool:
    """Whether the final model is that of `step`: by its weights, or by its step where it is stored in another form (merged)."""
    names = _weights(final)
    if names == _weights(path):
        return all(filecmp.cmp(path / name, final / name, shallow=False) for name in names)
    try:
        state = json.loads((path.parent / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(state, dict) and state.get("global_step") == step
