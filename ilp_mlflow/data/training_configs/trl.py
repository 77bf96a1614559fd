"""Configurations of TRL: the YAML file of `trl sft --config`, or the arguments of an SFTConfig."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ilp_mlflow.core.config import DataConfig, resolve_location
from ilp_mlflow.core.errors import ConfigError
from ilp_mlflow.data.training_configs.chat_templates import read_template
from ilp_mlflow.data.training_configs.keys import (
    Count,
    Keys,
    Names,
    Number,
    local_folder,
    near_misses,
    read_keys,
    unread,
)
from ilp_mlflow.data.training_configs.setup import AdapterSetup, TrainingSetup, lora_scale

OWN_KEYS = (
    "max_length",
    "max_seq_length",
    "truncation_mode",
    "assistant_only_loss",
    "completion_only_loss",
    "chat_template_path",
    "dataset_name",
    "dataset_text_field",
    "dataset_kwargs",
    "dataset_train_split",
    "packing_strategy",
    "padding_free",
    "loss_type",
    "use_peft",
    "lora_task_type",
    "eos_token",
    "pad_token",
)
"""Keys by which TRL's configurations are told from those of others."""
UNREAD = {
    "dataset_kwargs": "whoever skips TRL's preparation prepares the rows",
    "loss_type": "the loss may weigh tokens otherwise",
    "dataset_streaming": "rows are read as a whole",
    "streaming": "rows are read as a whole",
}
"""Options that may matter for the rows and are not read, and why."""
HARMLESS = (
    "eval_packing",
    "dataset_test_split",
    "per_device_eval_batch_size",
    "eval_accumulation_steps",
    "lora_target_parameters",
    "optim_target_modules",
)
"""Options that look like one that is read and do not matter for the rows."""


class TrlDataset(Keys):
    """One entry of `datasets:`."""

    path: str
    name: str | None = None
    data_files: str | None = None
    split: str = "train"


class TrlKeys(Keys):
    """What is read of SFTConfig, ModelConfig, ScriptArguments and DatasetMixtureConfig."""

    model_name_or_path: str | None = None
    dataset_name: str | None = None
    dataset_config: str | None = None
    dataset_train_split: str = "train"
    dataset_text_field: str = "text"
    datasets: tuple[TrlDataset, ...] = ()
    max_length: Count | None = 1024
    truncation_mode: Literal["keep_start", "keep_end"] = "keep_start"
    packing: bool = False
    packing_strategy: Literal["bfd", "bfd_split", "wrapped"] = "bfd"
    completion_only_loss: bool | None = None
    assistant_only_loss: bool = False
    chat_template_path: str | None = None
    eos_token: str | None = None
    pad_token: str | None = None
    num_train_epochs: Number = 3.0
    max_steps: int = -1
    per_device_train_batch_size: Count = 8
    gradient_accumulation_steps: Count = 1
    learning_rate: Number = 2e-5
    warmup_steps: Number = 0.0
    warmup_ratio: Number | None = None
    optim: str = "adamw_torch_fused"
    lora_r: Count = 16
    lora_alpha: Number = 32
    use_rslora: bool = False
    use_peft: bool = False
    lora_target_modules: Names = ()
    lora_modules_to_save: Names = ()


def trl_setup(
    fields: Mapping[str, Any], path: Path, read_as: str, with_data: bool = True
) -> TrainingSetup:
    """What a configuration of TRL does to the rows.

    Its rows are looked for `with_data` only. `fields` are those of the file at `path`, from whose
    folder relative paths start. Raises ConfigError for a value of the wrong type.
    """
    keys = read_keys(TrlKeys, fields, path)
    folder = path.resolve().parent
    max_length = keys.max_length
    # an explicit null is no cut at all, which the defaults of `read_keys` would hide
    if "max_length" in fields and fields["max_length"] is None:
        max_length = None
    notes = list(unread(fields, UNREAD))
    splits_at = None
    if keys.packing and keys.packing_strategy != "bfd":
        splits_at, max_length = max_length, None
    template = None
    if keys.chat_template_path:
        template = read_template(keys.chat_template_path, folder, f"{path}: chat_template_path")
    return TrainingSetup(
        trainer="TRL",
        read_as=read_as,
        read_from_file=True,
        text_field=keys.dataset_text_field,
        model=local_folder(keys.model_name_or_path, path),
        data=_data(keys, folder, path) if with_data else (),
        max_length=max_length,
        too_long=keys.truncation_mode,
        packing=keys.packing,
        splits_at=splits_at,
        splits_any_row=keys.packing_strategy == "wrapped",
        loss_on=_loss(keys),
        completion_only=keys.completion_only_loss,
        reads_weights=False,
        chat_template=template,
        eos_token=keys.eos_token,
        pad_token=keys.pad_token,
        adapter=_adapter(keys),
        epochs=keys.num_train_epochs,
        max_steps=keys.max_steps,
        batch_size=keys.per_device_train_batch_size,
        accumulation=keys.gradient_accumulation_steps,
        learning_rate=keys.learning_rate,
        # of both, transformers takes the steps
        warmup_steps=keys.warmup_steps or keys.warmup_ratio or 0.0,
        optimizer=keys.optim,
        notes=tuple(notes),
        unknown_keys=near_misses(fields, set(TrlKeys.model_fields), (*HARMLESS, *UNREAD)),
    )


def _data(keys: TrlKeys, folder: Path, path: Path) -> tuple[DataConfig, ...]:
    """The rows, from the Hub or from a file beside the configuration."""
    if keys.datasets:
        return tuple(_mixed_data(entry, folder) for entry in keys.datasets)
    if not keys.dataset_name:
        return ()
    local = folder / Path(keys.dataset_name).expanduser()
    if local.exists():
        return (DataConfig(path=str(local), split=keys.dataset_train_split),)
    if keys.dataset_name.startswith((".", "/", "~")):
        raise ConfigError(f"{path}: dataset_name: there is no {local}; check the path")
    return (
        DataConfig(
            dataset=keys.dataset_name, config=keys.dataset_config, split=keys.dataset_train_split
        ),
    )


def _mixed_data(entry: TrlDataset, folder: Path) -> DataConfig:
    """One entry of `datasets:`; a kind of file in place of a name (`json`) has its files."""
    if entry.data_files:
        return DataConfig(path=resolve_location(entry.data_files, folder), split=entry.split)
    local = folder / Path(entry.path).expanduser()
    if local.exists():
        return DataConfig(path=str(local), split=entry.split)
    return DataConfig(dataset=entry.path, config=entry.name, split=entry.split)


def _loss(keys: TrlKeys) -> Literal["answer", "assistant turns", "everything"] | None:
    if keys.assistant_only_loss:
        return "assistant turns"
    if keys.completion_only_loss is None:
        return None
    return "answer" if keys.completion_only_loss else "everything"


def _adapter(keys: TrlKeys) -> AdapterSetup | None:
    if not keys.use_peft:
        return None
    return AdapterSetup(
        target_modules=keys.lora_target_modules,
        modules_to_save=keys.lora_modules_to_save,
        scale=lora_scale(keys.lora_alpha, keys.lora_r, keys.use_rslora),
    )
