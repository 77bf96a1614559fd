"""The one place where it is decided whose training configuration a file is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ilp_mlflow.core.errors import ConfigError, suggest
from ilp_mlflow.core.strict_yaml import load_yaml
from ilp_mlflow.data.training_configs import axolotl, llama_factory, trl
from ilp_mlflow.data.training_configs.experiment import experiment_setup
from ilp_mlflow.data.training_configs.setup import TrainingSetup

Reader = Callable[[Mapping[str, Any], Path, str, bool], TrainingSetup]

READERS: dict[str, tuple[tuple[str, ...], Reader]] = {
    "LLaMA-Factory": (llama_factory.OWN_KEYS, llama_factory.llama_factory_setup),
    "axolotl": (axolotl.OWN_KEYS, axolotl.axolotl_setup),
    "TRL": (trl.OWN_KEYS, trl.trl_setup),
}
"""By trainer: the keys by which its configurations are known, and how they are read."""
SHARED_KEYS = (
    "model_name_or_path",
    "learning_rate",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "output_dir",
    "packing",
    "datasets",
    "bf16",
    "warmup_ratio",
    "lr_scheduler_type",
)
"""Keys of TRL that others have, too: a file with no other keys is TRL's."""
SHOWN_KEYS = 3
"""Keys that are named as those by which a file was recognised."""


def read_training_config(location: str, with_data: bool = True) -> TrainingSetup:
    """What the configuration at `location` does to rows.

    It is TRL's (YAML, or the arguments of an SFTConfig as JSON), LLaMA-Factory's, axolotl's, or an
    experiment file, `#stage` behind it naming a stage other than the first. Its rows are looked for
    `with_data` only. Raises ConfigError when there is no such file, when none of these knows its
    keys, and for a value of the wrong type; DatasetError for rows that are not read.
    """
    path, stage = _split_stage(location)
    fields = _read_fields(path)
    if "stages" in fields:
        return experiment_setup(path, stage, f"{path}: an experiment file of ilp")
    if stage:
        raise ConfigError(
            f"{location}: only an experiment file has stages, and {path} has no 'stages'"
        )
    if "train_dataset" in fields and "model_class" in fields:
        raise ConfigError(
            f"{path}: train_dataset: this is the new form of LLaMA-Factory's configurations (v1), "
            "which is not read; give --data and --model instead"
        )
    trainer, keys = _recognise(fields, path)
    read = READERS[trainer][1]
    read_as = f"{path}: a configuration of {trainer}, by {', '.join(keys)}"
    return read(fields, path, read_as, with_data)


def _split_stage(location: str) -> tuple[Path, str]:
    """The file and the stage in FILE#STAGE; a file may have a # in its name."""
    if Path(location).exists():
        return Path(location), ""
    file, _, stage = location.partition("#")
    return Path(file), stage


def _read_fields(path: Path) -> dict[str, Any]:
    """The keys of a YAML or JSON file. Raises ConfigError when it is none."""
    hint = "give a configuration of TRL, LLaMA-Factory or axolotl, or an experiment file"
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text; {hint}") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; {hint}") from None
    fields = _load_json(text, path) if path.suffix == ".json" else load_yaml(text, path)
    if not isinstance(fields, dict):
        raise ConfigError(f"{path}: expected a mapping, got {type(fields).__name__}; {hint}")
    return fields


def _load_json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{path} line {error.lineno}: not valid JSON: {error.msg}; is the file cut off?"
        ) from None


def _recognise(fields: Mapping[str, Any], path: Path) -> tuple[str, list[str]]:
    """Whose configuration it is, and the keys that say so."""
    found = {name: [key for key in own if key in fields] for name, (own, _) in READERS.items()}
    trainer = max(found, key=lambda name: len(found[name]))
    keys = found[trainer]
    if not keys:
        trainer, keys = "TRL", [key for key in SHARED_KEYS if key in fields]
    if not keys:
        known = [*SHARED_KEYS, "stages", *(key for own, _ in READERS.values() for key in own)]
        first = str(next(iter(fields), ""))
        raise ConfigError(
            f"{path}: no key of TRL, LLaMA-Factory, axolotl or an experiment in it; "
            f"'{first}': {_short_suggestion(first, known)}"
        )
    rivals = [name for name in found if name != trainer and len(found[name]) == len(keys)]
    if rivals and found[trainer]:
        raise ConfigError(
            f"{path}: may be of {trainer} ({keys[0]}) or of {rivals[0]} ({found[rivals[0]][0]}); "
            "leave out the keys that are not its trainer's"
        )
    return trainer, keys[:SHOWN_KEYS]


def _short_suggestion(name: str, known: list[str]) -> str:
    """What a key may have been meant to be, without the list of all there are."""
    suggestion = suggest(name, known)
    if suggestion.startswith("did you mean"):
        return suggestion
    return "is this the right file?"
