"""Configurations of LLaMA-Factory: the YAML file of `llamafactory-cli train`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ilp_mlflow.core.config import DataConfig
from ilp_mlflow.core.errors import ConfigError
from ilp_mlflow.data.dataset_lists import read_dataset_info
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
    "cutoff_len",
    "template",
    "dataset",
    "dataset_dir",
    "finetuning_type",
    "stage",
    "do_train",
    "train_on_prompt",
    "mask_history",
    "neat_packing",
    "lora_target",
    "lora_rank",
    "additional_target",
    "resize_vocab",
    "add_tokens",
    "add_special_tokens",
    "new_special_tokens",
    "max_samples",
    "preprocessing_num_workers",
    "overwrite_cache",
    "quantization_bit",
    "adapter_name_or_path",
)
"""Keys by which LLaMA-Factory's configurations are told from those of others."""
UNREAD = {
    "default_system": "the model's own template says which system prompt is put in",
    "tool_format": "tools are rendered by the model's own template",
    "preserve_thinking": "the model's own template says what becomes of earlier reasoning",
    "new_special_tokens_config": "give its tokens under add_special_tokens, too",
    "tokenized_path": "rows are read from where they were tokenized",
    "streaming": "rows are read as a whole",
    "mix_strategy": "rows of several data sets are taken one after the other",
    "val_size": "the share that is set aside for validation is checked, too",
    "interleave_probs": "rows of several data sets are taken one after the other",
}
"""Options that may matter for the rows and are not read, and why."""
EMBEDDINGS = ("embed_tokens", "lm_head")
"""What LLaMA-Factory trains whole where it resizes the vocabulary, whatever the model calls it."""
HARMLESS = (
    "per_device_eval_batch_size",
    "galore_target",
    "apollo_target",
    "oft_target",
)
"""Options that look like one that is read and do not matter for the rows."""


class LlamaFactoryKeys(Keys):
    """What is read of LLaMA-Factory's arguments."""

    model_name_or_path: str | None = None
    stage: Literal["sft", "pt"] = "sft"
    finetuning_type: Literal["lora", "oft", "freeze", "full"] = "lora"
    dataset: Names = ()
    eval_dataset: Names = ()
    dataset_dir: str = "data"
    max_samples: Count | None = None
    template: str | None = None
    enable_thinking: bool = True
    cutoff_len: Count = 2048
    packing: bool = False
    neat_packing: bool = False
    train_on_prompt: bool = False
    mask_history: bool = False
    add_tokens: Names = ()
    add_special_tokens: Names = ()
    new_special_tokens: Names = ()
    """What earlier versions call `add_special_tokens`."""
    resize_vocab: bool = False
    lora_target: Names = ("all",)
    additional_target: Names = ()
    num_train_epochs: Number = 3.0
    max_steps: int = -1
    per_device_train_batch_size: Count = 8
    gradient_accumulation_steps: Count = 1
    learning_rate: Number = 5e-5
    warmup_steps: Number = 0.0
    warmup_ratio: Number | None = None
    optim: str = "adamw_torch_fused"
    lora_rank: Count = 8
    lora_alpha: Number | None = None
    use_rslora: bool = False


def llama_factory_setup(
    fields: Mapping[str, Any], path: Path, read_as: str, with_data: bool = True
) -> TrainingSetup:
    """What a configuration of LLaMA-Factory does to the rows.

    Its rows are looked for `with_data` only. `fields` are those of the file at `path`. Raises
    ConfigError for a value of the wrong type and a kind of training that is not supervised,
    DatasetError for a data set that is not in `dataset_info.json`.
    """
    keys = read_keys(LlamaFactoryKeys, fields, path)
    packs = keys.packing or keys.neat_packing or keys.stage == "pt"
    return TrainingSetup(
        trainer="LLaMA-Factory",
        read_as=read_as,
        model=local_folder(keys.model_name_or_path, path),
        data=_data(keys, path) if with_data else (),
        held_out=_listed(keys.eval_dataset, keys, path),
        # one token less in a packed sequence, as LLaMA-Factory has it
        max_length=keys.cutoff_len - 1 if packs else keys.cutoff_len,
        too_long="share",
        packing=packs,
        loss_on=_loss(keys),
        history_in_loss=not keys.mask_history,
        reads_weights=False,
        chat_template_kwargs=_template_variables(keys),
        added_tokens=(*keys.add_tokens, *keys.add_special_tokens, *keys.new_special_tokens),
        adapter=_adapter(keys),
        epochs=keys.num_train_epochs,
        max_steps=keys.max_steps,
        batch_size=keys.per_device_train_batch_size,
        accumulation=keys.gradient_accumulation_steps,
        learning_rate=keys.learning_rate,
        warmup_steps=keys.warmup_steps or keys.warmup_ratio or 0.0,
        optimizer=keys.optim,
        notes=(*_template_note(keys), *unread(fields, UNREAD)),
        unknown_keys=near_misses(fields, set(LlamaFactoryKeys.model_fields), (*HARMLESS, *UNREAD)),
    )


def _data(keys: LlamaFactoryKeys, path: Path) -> tuple[DataConfig, ...]:
    """The rows of every name in `dataset:`, as `dataset_info.json` describes them."""
    data = _listed(keys.dataset, keys, path)
    if keys.max_samples:
        data = tuple(one.model_copy(update={"limit": keys.max_samples}) for one in data)
    return data


def _listed(names: Sequence[str], keys: LlamaFactoryKeys, path: Path) -> tuple[DataConfig, ...]:
    """Data sets of `dataset_info.json` by their names."""
    if not names:
        return ()
    info = _info_file(keys.dataset_dir, path)
    return tuple(read_dataset_info(info, name) for name in names)


def _info_file(dataset_dir: str, path: Path) -> Path:
    """Where `dataset_info.json` lies. Raises ConfigError when it is nowhere."""
    for folder in (Path.cwd(), path.resolve().parent):
        info = folder / Path(dataset_dir).expanduser() / "dataset_info.json"
        if info.exists():
            return info
    raise ConfigError(
        f"{path}: dataset_dir: no {dataset_dir}/dataset_info.json here or beside the file; "
        "start where LLaMA-Factory is started, or give the rows with --data"
    )


def _loss(keys: LlamaFactoryKeys) -> Literal["answer", "assistant turns", "everything"]:
    if keys.train_on_prompt or keys.stage == "pt":
        return "everything"
    return "answer" if keys.mask_history else "assistant turns"


def _template_variables(keys: LlamaFactoryKeys) -> dict[str, Any]:
    # thinking is on by default, in templates as in LLaMA-Factory
    return {} if keys.enable_thinking else {"enable_thinking": False}


def _template_note(keys: LlamaFactoryKeys) -> tuple[str, ...]:
    """That a template of LLaMA-Factory's own is stood in for by the model's."""
    if not keys.template:
        return ()
    return (
        f"template '{keys.template}' is LLaMA-Factory's own: rows are rendered by the model's chat "
        "template in its place, which may differ in its system prompt, white space or end token",
    )


def _adapter(keys: LlamaFactoryKeys) -> AdapterSetup | None:
    if keys.finetuning_type not in ("lora", "oft"):
        return None
    # unless it is told which modules, LLaMA-Factory trains the embeddings that it resizes: where it
    # is told to resize them, or has added tokens
    modules = keys.additional_target or (EMBEDDINGS if keys.resize_vocab else ())
    return AdapterSetup(
        target_modules=keys.lora_target,
        modules_to_save=modules,
        trains_added_tokens=not keys.additional_target,
        scale=_scale(keys),
    )


def _scale(keys: LlamaFactoryKeys) -> float:
    """What the adapter is scaled by; LLaMA-Factory's alpha is twice the rank."""
    alpha = 2 * keys.lora_rank if keys.lora_alpha is None else keys.lora_alpha
    return lora_scale(alpha, keys.lora_rank, keys.use_rslora)
