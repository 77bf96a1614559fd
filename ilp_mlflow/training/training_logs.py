"""What a trainer that is done has logged."""

from __future__ import annotations

from typing import Any

from peft import PeftModel

from ilp_mlflow.core.training_log import TrainingLog
from ilp_mlflow.data import trainer_logs


def read_log(stage: str, args: Any, state: Any, model: Any) -> TrainingLog:
    """The log of a `transformers.Trainer` with its `args`, its `state` and the `model` it trained.

    The log is named after the stage.
    """
    options = {**args.to_dict(), "max_steps": state.max_steps}
    adapter = model.active_peft_config.to_dict() if isinstance(model, PeftModel) else None
    kept = state.best_global_step if args.load_best_model_at_end else None
    return TrainingLog(
        stage=stage,
        source="",
        entries=trainer_logs.read_entries(state.log_history),
        steps=state.global_step,
        kept_step=kept or None,
        settings=trainer_logs.choose_settings(options, adapter),
    )
