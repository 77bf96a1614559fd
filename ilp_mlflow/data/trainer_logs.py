"""The logs that trainers leave: their history while they run, and their files in a folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ilp_mlflow.core.terminal.notes import say_once
from ilp_mlflow.core.training_log import LogEntry, TrainingLog
from ilp_mlflow.data.checkpoint_folders import STEP_FOLDER

STATE_FILE = "trainer_state.json"
"""What `transformers.Trainer` keeps of a training, beside each checkpoint."""
LLAMA_FACTORY_FILE = "trainer_log.jsonl"
"""What LLaMA-Factory writes while it trains."""
ADAPTER_FILE = "adapter_config.json"
"""What PEFT keeps of an adapter."""
SETTINGS = (
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "warmup_ratio",
    "max_steps",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_grad_norm",
    "optim",
    "weight_decay",
    "label_smoothing_factor",
    "neftune_noise_alpha",
    "loss_type",
    "packing",
    "fp16",
    "bf16",
    "load_best_model_at_end",
)
"""Settings of a trainer that its log is read with."""
SCALE_SETTINGS = ("r", "lora_alpha", "use_rslora")
"""Settings of a LoRA adapter that scale what it adds to the weights."""


def read_entries(history: Iterable[Mapping[str, Any]]) -> tuple[LogEntry, ...]:
    """The entries of a trainer's `log_history` that are of training steps.

    Evaluations and the summary at the end have no loss of a step. Raises KeyError, TypeError or
    ValueError for what is no history.
    """
    entries = []
    for logged in history:
        if "loss" not in logged:
            continue
        entries.append(
            LogEntry(
                step=int(logged["step"]),
                epoch=_number(logged.get("epoch")),
                loss=_number(logged["loss"]),
                grad_norm=_number(logged.get("grad_norm")),
                learning_rate=_number(logged.get("learning_rate")),
            )
        )
    return tuple(sorted(entries, key=lambda entry: entry.step))


def choose_settings(
    options: Mapping[str, Any], adapter: Mapping[str, Any] | None = None
) -> dict[str, float | int | str | bool | None]:
    """Those of a trainer's and an adapter's options that a log is read with."""
    chosen: dict[str, float | int | str | bool | None] = {}
    for names, given in ((SETTINGS, options), (SCALE_SETTINGS, adapter or {})):
        for name in names:
            value = given.get(name)
            if isinstance(value, str | bool | int | float):
                chosen[name] = value
    return chosen


def read_folder_log(stage: str, location: str) -> TrainingLog | None:
    """What the folder of a model trained elsewhere tells of its training; None: nothing.

    Read are `trainer_state.json` in the folder, in its newest `checkpoint-N` or beside it, else
    LLaMA-Factory's `trainer_log.jsonl`, and the scale of an adapter. A file that is not what its
    name says is told and left out. Without any log, `entries` is empty and `steps` is 0.
    """
    folder = Path(location.rpartition("+")[2] if not Path(location).exists() else location)
    if not folder.is_dir():
        return None
    settings = choose_settings({}, _read_json(folder / ADAPTER_FILE))
    for file in _state_files(folder):
        state = _read_json(file)
        log = _log_from_state(stage, file, state, settings) if state is not None else None
        if log is not None:
            return _up_to_step(log, folder)
    for file in (folder / LLAMA_FACTORY_FILE, folder.parent / LLAMA_FACTORY_FILE):
        log = _log_from_lines(stage, file, settings) if file.is_file() else None
        if log is not None:
            return _up_to_step(log, folder)
    if settings:
        return TrainingLog(stage=stage, source="", entries=(), steps=0, settings=settings)
    return None


def _state_files(folder: Path) -> list[Path]:
    """Where the state of a folder's training may be, the likeliest first; those that are there."""
    places = [folder, *_newest_step(folder), folder.parent]
    # a merged model stands beside the steps it was made of
    if not STEP_FOLDER.fullmatch(folder.name) and folder.name == "merged":
        places += _newest_step(folder.parent)
    files = [place / STATE_FILE for place in places]
    return [file for file in files if file.is_file()]


def _newest_step(folder: Path) -> list[Path]:
    """The newest `checkpoint-N` of a folder with a state in it, if there is one."""
    steps = {}
    for path in folder.glob(f"checkpoint-*/{STATE_FILE}"):
        match = STEP_FOLDER.fullmatch(path.parent.name)
        if match:
            steps[int(match[1])] = path.parent
    return [steps[max(steps)]] if steps else []


def _read_json(file: Path) -> dict[str, Any] | None:
    """An object in a file; None, and a note, where there is a file without one."""
    if not file.is_file():
        return None
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        value = None
    if not isinstance(value, dict):
        _tell_unreadable(file)
        return None
    return value


def _log_from_state(
    stage: str, file: Path, state: Mapping[str, Any], settings: Mapping[str, Any]
) -> TrainingLog | None:
    """The log in a trainer's state; None, and a note, where it has none."""
    try:
        entries = read_entries(state["log_history"])
        steps = int(state["global_step"])
    except (KeyError, TypeError, ValueError, AttributeError):
        _tell_unreadable(file)
        return None
    known = dict(settings)
    for name, key in (("max_steps", "max_steps"), ("train_batch_size", "train_batch_size")):
        if isinstance(state.get(key), int):
            known[name] = state[key]
    best = state.get("best_global_step")
    kept = best if isinstance(best, int) and 0 < best < steps else None
    return TrainingLog(
        stage=stage,
        source=str(file),
        entries=entries,
        steps=steps,
        kept_step=kept,
        settings=known,
    )


def _log_from_lines(stage: str, file: Path, settings: Mapping[str, Any]) -> TrainingLog | None:
    """The log that LLaMA-Factory writes, a line each time; None, and a note, for another file."""
    history = []
    steps = 0
    try:
        for line in file.read_text(encoding="utf-8").splitlines():
            logged = json.loads(line)
            steps = max(steps, int(logged["current_steps"]))
            names = {"step": logged["current_steps"], "learning_rate": logged.get("lr")}
            history.append({**logged, **names})
        entries = read_entries(history)
    except (OSError, KeyError, TypeError, ValueError, AttributeError):
        _tell_unreadable(file)
        return None
    return TrainingLog(
        stage=stage, source=str(file), entries=entries, steps=steps, settings=dict(settings)
    )


def _up_to_step(log: TrainingLog, folder: Path) -> TrainingLog:
    """A log up to the step of a `checkpoint-N`, which may lie beside the log of all steps."""
    match = STEP_FOLDER.fullmatch(folder.name)
    if not match:
        return log
    step = int(match[1])
    entries = tuple(entry for entry in log.entries if entry.step <= step)
    return log.model_copy(update={"entries": entries, "steps": step, "kept_step": None})


def _tell_unreadable(file: Path) -> None:
    say_once(f"{file}: not what a trainer writes, so nothing is read of how the training went")


def _number(value: Any) -> float | None:
    """A logged number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)
