"""Configurations of axolotl: the YAML file of `axolotl train`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ilp_mlflow.core.config import DataConfig
from ilp_mlflow.core.errors import ConfigError
from ilp_mlflow.data.dataset_lists import read_axolotl_datasets
from ilp_mlflow.data.training_configs.chat_templates import CHATML, read_template
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
    "base_model",
    "sequence_len",
    "sample_packing",
    "micro_batch_size",
    "num_epochs",
    "train_on_inputs",
    "excess_length_strategy",
    "special_tokens",
    "tokens",
    "chat_template",
    "chat_template_jinja",
    "adapter",
    "val_set_size",
    "dataset_prepared_path",
    "lora_target_linear",
    "pad_to_sequence_len",
    "model_type",
    "tokenizer_type",
    "peft_trainable_token_indices",
    "eot_tokens",
    "roles_to_train",
)
"""Keys by which axolotl's configurations are told from those of others."""
UNREAD = {
    "pretraining_dataset": "only the rows of 'datasets' are checked",
    "added_tokens_overrides": "the tokens keep the names that the tokenizer has",
    "tokenizer_config": "rows are read by the model's own tokenizer; give that folder as --model",
    "default_system_message": "the template says which system prompt is put in",
    "streaming": "rows are read as a whole",
    "dataset_exact_deduplication": "exact duplicates are counted as they lie in the file",
    "val_set_size": "the share that is set aside for validation is checked, too",
    "excess_length_strategy_eval": "only training is checked",
}
"""Options that may matter for the rows and are not read, and why."""
HARMLESS = (
    "eval_sequence_len",
    "eval_sample_packing",
    "pad_to_sequence_len",
    "base_model_config",
    "eval_batch_size",
    "lora_target_parameters",
    "optim_target_modules",
    "lora_modules_pattern",
    "sample_packing_eff_est",
    "sample_packing_bin_size",
)
"""Options that look like one that is read and do not matter for the rows."""
END_TOKEN_CHOICES = Literal["all", "turn", "last", "none"]


class SpecialTokens(Keys):
    """The value of `special_tokens:`."""

    bos_token: str | None = None
    eos_token: str | None = None
    pad_token: str | None = None
    unk_token: str | None = None
    additional_special_tokens: Names = ()


class AxolotlDataset(Keys):
    """What is read here of an entry of `datasets:`; the rows themselves are read elsewhere."""

    path: str = ""
    roles_to_train: Names = ("assistant",)
    train_on_eos: END_TOKEN_CHOICES = "turn"
    message_field_training: str | None = None
    chat_template: str | None = None
    chat_template_jinja: str | None = None


class AxolotlKeys(Keys):
    """What is read of axolotl's options."""

    base_model: str | None = None
    datasets: tuple[AxolotlDataset, ...] = ()
    test_datasets: tuple[AxolotlDataset, ...] = ()
    sequence_len: Count = 512
    excess_length_strategy: Literal["drop", "truncate", "raise"] = "drop"
    sample_packing: bool = False
    train_on_inputs: bool = False
    chat_template: str | None = None
    chat_template_jinja: str | None = None
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    special_tokens: SpecialTokens = SpecialTokens()
    tokens: Names = ()
    adapter: str | None = None
    lora_target_modules: Names = ()
    lora_target_linear: bool = False
    lora_modules_to_save: Names = ()
    peft_trainable_token_indices: tuple[int, ...] | dict[str, tuple[int, ...]] = ()
    num_epochs: Number = 1.0
    max_steps: int = -1
    micro_batch_size: Count = 1
    gradient_accumulation_steps: Count = 1
    learning_rate: Number | None = None
    warmup_steps: Number = 0.0
    warmup_ratio: Number | None = None
    optimizer: str = ""
    lora_r: Count | None = None
    lora_alpha: Number | None = None
    peft_use_rslora: bool | None = None
    rl: str | None = None


def axolotl_setup(
    fields: Mapping[str, Any], path: Path, read_as: str, with_data: bool = True
) -> TrainingSetup:
    """What a configuration of axolotl does to the rows.

    Its rows are looked for `with_data` only. `fields` are those of the file at `path`, from whose
    folder relative paths start. Raises ConfigError for a value of the wrong type and for training
    that is not supervised, DatasetError for rows that are not read.
    """
    keys = read_keys(AxolotlKeys, fields, path)
    if keys.rl:
        raise ConfigError(
            f"{path}: rl: {keys.rl}: rows of preferences are not checked; leave 'rl' out for "
            "supervised fine-tuning"
        )
    special = keys.special_tokens
    named = (special.bos_token, special.eos_token, special.pad_token, special.unk_token)
    added = [token for token in named if token]
    return TrainingSetup(
        trainer="axolotl",
        read_as=read_as,
        model=local_folder(keys.base_model, path),
        data=_data(fields.get("datasets"), keys.datasets, path) if with_data else (),
        held_out=_data(fields.get("test_datasets"), keys.test_datasets, path),
        max_length=keys.sequence_len,
        too_long="keep_start" if keys.excess_length_strategy == "truncate" else "drop",
        packing=keys.sample_packing,
        loss_on="everything" if keys.train_on_inputs else "assistant turns",
        reads_weights=any(dataset.message_field_training for dataset in keys.datasets),
        end_in_loss=not any(dataset.train_on_eos == "none" for dataset in keys.datasets),
        chat_template=_template(keys, path),
        chat_template_kwargs=keys.chat_template_kwargs,
        eos_token=special.eos_token,
        pad_token=special.pad_token,
        added_tokens=(*added, *special.additional_special_tokens, *keys.tokens),
        adapter=_adapter(keys),
        epochs=keys.num_epochs,
        max_steps=keys.max_steps,
        batch_size=keys.micro_batch_size,
        accumulation=keys.gradient_accumulation_steps,
        learning_rate=keys.learning_rate,
        warmup_steps=keys.warmup_steps or keys.warmup_ratio or 0.0,
        optimizer=keys.optimizer,
        notes=(*_notes(keys), *unread(fields, UNREAD)),
        unknown_keys=near_misses(fields, set(AxolotlKeys.model_fields), (*HARMLESS, *UNREAD)),
    )


def _data(entries: Any, listed: Sequence[AxolotlDataset], path: Path) -> tuple[DataConfig, ...]:
    """The rows of `datasets:`, or of `test_datasets:`, from where axolotl is started or beside the
    file."""
    if not listed:
        return ()
    folder = path.resolve().parent
    for dataset in listed:
        if (Path.cwd() / Path(dataset.path).expanduser()).exists():
            folder = Path.cwd()
    return tuple(read_axolotl_datasets({"datasets": entries}, folder))


def _template(keys: AxolotlKeys, path: Path) -> str | None:
    """The chat template in place of the model's own; None for a name that is not read."""
    jinja = keys.chat_template_jinja
    name = keys.chat_template
    # a data set's own template goes before that of the file
    for dataset in keys.datasets:
        jinja = dataset.chat_template_jinja or jinja
        name = dataset.chat_template or name
    if jinja and "{" in jinja:
        return jinja
    if jinja:
        return read_template(jinja, path.resolve().parent, f"{path}: chat_template_jinja")
    return CHATML if name == "chatml" else None


def _notes(keys: AxolotlKeys) -> tuple[str, ...]:
    """Sentences on what is read otherwise than axolotl does it."""
    notes = []
    names = [keys.chat_template, *(dataset.chat_template for dataset in keys.datasets)]
    for name in names:
        if name and name not in ("chatml", "tokenizer_default", "jinja"):
            notes.append(
                f"chat_template '{name}' is axolotl's own: rows are rendered by the model's chat "
                "template in its place, which may differ"
            )
    for role in _other_roles(keys.datasets):
        notes.append(
            f"roles_to_train names '{role}': the tables are of assistant turns alone, and turns of "
            f"'{role}' are in the loss as well"
        )
    for dataset in keys.datasets:
        if not dataset.roles_to_train:
            notes.append(
                "roles_to_train is empty, so that only turns are trained which the row itself "
                "marks (message_field_training); the tables are of all assistant turns"
            )
        if dataset.train_on_eos in ("all", "last"):
            notes.append(
                f"train_on_eos is '{dataset.train_on_eos}': the tables are of the end tokens of "
                "all trained turns"
            )
    return tuple(dict.fromkeys(notes))


def _other_roles(datasets: Sequence[AxolotlDataset]) -> list[str]:
    """Roles that are trained besides the assistant's."""
    others = []
    for dataset in datasets:
        others += [r for r in dataset.roles_to_train if r not in ("assistant", "gpt", "model")]
    return sorted(set(others))


def _adapter(keys: AxolotlKeys) -> AdapterSetup | None:
    if not keys.adapter:
        return None
    targets = keys.lora_target_modules
    scale = None
    if keys.lora_alpha is not None and keys.lora_r is not None:
        scale = lora_scale(keys.lora_alpha, keys.lora_r, bool(keys.peft_use_rslora))
    return AdapterSetup(
        target_modules=("all-linear",) if keys.lora_target_linear else targets,
        modules_to_save=keys.lora_modules_to_save,
        token_rows=("embed_tokens",) if keys.peft_trainable_token_indices else (),
        scale=scale,
    )
