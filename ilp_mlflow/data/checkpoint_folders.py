"""Models trained elsewhere: trainers' output folders as checkpoints, and rows for them."""

from __future__ import annotations

import filecmp
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ilp_mlflow.core import config
from ilp_mlflow.core.config import DataConfig, Experiment, ScoringConfig, TokenizerConfig
from ilp_mlflow.core.errors import ConfigError, ModelError, suggest
from ilp_mlflow.core.values import Checkpoint

STEP_FOLDER = re.compile(r"checkpoint-(\d+)")
"""Name of the folder that trainers keep for an optimizer step."""
WEIGHTS = ("*.safetensors", "*.gguf", "*model*.bin")
"""Files that make a folder a model; pickled ones only so that they are refused by name."""


class _StepFolder(NamedTuple):
    """A `checkpoint-N` with weights; folders are sorted by these fields."""

    step: int
    path: Path


def find_checkpoints(arguments: Sequence[str]) -> list[Checkpoint]:
    """The checkpoints written as NAME=LOCATION (folder, MLflow URI or Hub id), the base first.

    An output folder of TRL, LLaMA-Factory or axolotl is read as all that is in it: NAME is the
    model or adapter in the folder itself, else in `merged`, else its highest `checkpoint-N`; before
    it comes NAME@N for every other `checkpoint-N` with weights of its own. Of the base only NAME is
    taken. LOCATION may be BELOW+ADAPTER, where BELOW is the location or the name of an earlier
    checkpoint. Raises ConfigError when there is no argument, one is not written so or a name comes
    twice, ModelError when a folder is not there or holds no weights.
    """
    if not arguments:
        raise ConfigError("--checkpoint: missing; give NAME=LOCATION, the base first")
    checkpoints = list[Checkpoint]()
    names = set[str]()
    for argument in arguments:
        name, location = _split_checkpoint(argument)
        below, plus, location = _split_stack(location, checkpoints)
        if name in names:
            raise ConfigError(
                f"--checkpoint: name '{name}' is given twice; "
                "use NAME=LOCATION with a name of its own for each"
            )
        at_location = _checkpoints_at(name, location)
        if below:
            at_location = [
                c.model_copy(update={"model_uri": below + plus + c.model_uri}) for c in at_location
            ]
        # there is one base: what it was before is not of this experiment
        checkpoints += at_location if names else at_location[-1:]
        names.add(name)
    return checkpoints


def _split_checkpoint(argument: str) -> tuple[str, str]:
    """Name and location in NAME=LOCATION."""
    name, _, location = argument.partition("=")
    if not (name and location):
        raise ConfigError(
            f"--checkpoint '{argument}': write NAME=LOCATION, "
            "for example base=HuggingFaceTB/SmolLM2-135M"
        )
    if not re.match(config.NAME_PATTERN, name):
        raise ConfigError(
            f"--checkpoint '{argument}': "
            f"a name is made of letters, digits, '-' and '_', got '{name}'"
        )
    return name, location


def _split_stack(location: str, earlier: Sequence[Checkpoint]) -> tuple[str, str, str]:
    """What is below the last + of a location, the +, and what is on it; "" twice without one.

    Below, the name of an earlier checkpoint stands for where that is.
    """
    # a folder may have a + in its name
    if "+" not in location or Path(location).exists():
        return "", "", location
    below, plus, last = location.rpartition("+")
    uris = {checkpoint.name: checkpoint.model_uri for checkpoint in earlier}
    places = [uris.get(part, part) for part in below.split("+")]
    return "+".join(places), plus, last


def experiment_for(
    checkpoints: Sequence[Checkpoint],
    data: Sequence[str],
    seed: str = "",
    rows: Mapping[str, str] | None = None,
    chat_template: str | None = None,
    **scoring: str,
) -> Experiment:
    """An experiment whose stages have made these checkpoints, the base first.

    `data` are files with rows, or NAME=FILE for those of the stage that made the checkpoint NAME;
    without a name it is the last one. All are read as `rows` say, options of `DataConfig`. `data`,
    `seed`, `rows` and the `scoring` options are as written on the command line, options that are ""
    keep their defaults. `chat_template` is a file in place of the models' own.

    Raises ConfigError when no checkpoint comes after the base, when a NAME is none of those or has
    rows already, and when an option does not fit.
    """
    # NAME@N is inside the stage that made NAME
    base, *names = [checkpoint.name for checkpoint in checkpoints if "@" not in checkpoint.name]
    if not names:
        raise ConfigError(
            f"--checkpoint: '{base}' is the base; give the models trained from it, too"
        )
    file_by_name = _files_by_name(data, names)
    # a checkpoint without rows is a model that is only scored: it gets no stage
    stages = []
    for name in names:
        if name in file_by_name:
            location = config.resolve_location(file_by_name[name], Path.cwd())
            parameters = {"path": location, **(rows or {})}
            stages.append({"name": name, "data": config.parse_parameters(DataConfig, parameters)})
    return config.parse_parameters(
        Experiment,
        {
            "name": names[-1],
            "model": checkpoints[0].model_uri,
            "stages": stages,
            "tokenizer": TokenizerConfig(chat_template=chat_template),
            "scoring": config.parse_parameters(ScoringConfig, scoring),
            "tracking": {"experiment": "elsewhere"},
            "seed": seed,
        },
    )


def _files_by_name(arguments: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """The file with the rows of each of the checkpoints `names`, written as FILE or NAME=FILE."""
    file_by_name = dict[str, str]()
    for argument in arguments:
        if "=" in argument:
            name, _, file = argument.partition("=")
        else:
            name, file = names[-1], argument
        if name not in names:
            hint = ""
            if Path(argument).exists():
                hint = f", or write {names[-1]}={argument} for a file of that name"
            raise ConfigError(
                f"--data {argument}: '{name}' is no checkpoint after the base; "
                f"{suggest(name, names)}{hint}"
            )
        if name in file_by_name:
            raise ConfigError(
                f"--data {argument}: '{name}' has its rows from {file_by_name[name]}; "
                "put them into one file"
            )
        file_by_name[name] = file
    return file_by_name


def _checkpoints_at(name: str, location: str) -> list[Checkpoint]:
    """The checkpoints in a local folder, the final one last; any other location is one."""
    folder = Path(location).expanduser().absolute()
    if location.startswith((".", "/", "~")) and not folder.exists():
        raise ModelError(f"{location}: no such folder; check the path")
    if not folder.is_dir():
        return [Checkpoint(name=name, model_uri=location)]
    steps = _step_folders(folder)
    final = _final_model(folder)
    if final is None:
        if not steps:
            raise ModelError(
                f"{location}: no weights in it, in 'merged' or in a 'checkpoint-N'; "
                "give the folder of a model"
            )
        final = steps.pop().path
    checkpoints = []
    for step, path in steps:
        if not _is_final(step, path, final):
            uri = str(path)
            checkpoints.append(Checkpoint(name=f"{name}@{step}", model_uri=uri, step=step))
    return [*checkpoints, Checkpoint(name=name, model_uri=str(final))]


def _step_folders(folder: Path) -> list[_StepFolder]:
    """The folders of optimizer steps with weights in them, in order of the steps."""
    # by number, as `checkpoint-1000` comes before `checkpoint-900` by name
    steps = []
    for path in folder.iterdir():
        match = STEP_FOLDER.fullmatch(path.name)
        if match and path.is_dir() and _weight_files(path):
            steps.append(_StepFolder(int(match[1]), path))
    return sorted(steps)


def _final_model(folder: Path) -> Path | None:
    """Where the model is that a training ended with; None when only its steps are there."""
    # where MLflow puts the weights, it says in this file
    if (folder / "MLmodel").exists():
        return folder
    for path in (folder, folder / "merged"):
        if _weight_files(path):
            return path
    return None


def _weight_files(folder: Path) -> list[str]:
    """Names of the files with weights in a folder."""
    return sorted(path.name for pattern in WEIGHTS for path in folder.glob(pattern))


def _is_final(step: int, path: Path, final: Path) -> bool:
    """Whether the final model is that of `step`, by its weights.

    A final model that is stored in another form (merged) is known by the step it was made in.
    """
    names = _weight_files(final)
    if names == _weight_files(path):
        return all(filecmp.cmp(path / name, final / name, shallow=False) for name in names)
    try:
        state = json.loads((path.parent / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(state, dict) and state.get("global_step") == step
