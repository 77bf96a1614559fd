"""Our own experiment files: what one stage of theirs does to its rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ilp_mlflow.core import config
from ilp_mlflow.core.errors import ConfigError, suggest
from ilp_mlflow.data.training_configs.keys import Count, Keys, Names, Number, read_keys
from ilp_mlflow.data.training_configs.setup import AdapterSetup, TrainingSetup, lora_scale
from ilp_mlflow.data.training_configs.trl import trl_setup


class PeftKeys(Keys):
    """What is read of `peft.LoraConfig`."""

    target_modules: Names = ()
    modules_to_save: Names = ()
    r: Count = 8
    lora_alpha: Number = 8
    use_rslora: bool = False


def experiment_setup(path: Path, stage_name: str, read_as: str) -> TrainingSetup:
    """What a stage of the experiment file at `path` does to its rows; "" is its first stage.

    Raises ConfigError when the file does not fit or has no such stage.
    """
    experiment = config.read(path)
    if config.is_lab(experiment):
        raise ConfigError(
            f"{path}: the lab makes its model and rows when it runs; give an experiment with rows "
            "of its own"
        )
    stages = {stage.name: stage for stage in experiment.stages}
    if stage_name and stage_name not in stages:
        raise ConfigError(f"{path}: no stage '{stage_name}' in it; {suggest(stage_name, stages)}")
    stage = stages[stage_name] if stage_name else experiment.stages[0]
    prepared = trl_setup(stage.training, path, f"{read_as}, stage '{stage.name}'")
    tokenizer = experiment.tokenizer
    template = None
    if tokenizer.chat_template:
        template = Path(tokenizer.chat_template).read_text(encoding="utf-8")
    return prepared.model_copy(
        update={
            "trainer": "ilp",
            "model": experiment.model,
            "data": (stage.data,),
            "held_out": (experiment.held_out,) if experiment.held_out else (),
            # of a conversation only the last turn is trained, whatever its column is called
            "loss_on": prepared.loss_on or "answer",
            "history_in_loss": prepared.completion_only is False,
            "reads_weights": True,
            "chat_template": template,
            "chat_template_kwargs": tokenizer.chat_template_kwargs,
            "eos_token": tokenizer.eos_token,
            "adapter": _adapter(stage.peft, path),
        }
    )


def _adapter(peft: dict[str, Any] | None, path: Path) -> AdapterSetup | None:
    if peft is None:
        return None
    keys = read_keys(PeftKeys, peft, path)
    return AdapterSetup(
        target_modules=keys.target_modules,
        modules_to_save=keys.modules_to_save,
        token_rows=("embed_tokens",) if peft.get("trainable_token_indices") else (),
        scale=lora_scale(keys.lora_alpha, keys.r, keys.use_rslora),
    )
