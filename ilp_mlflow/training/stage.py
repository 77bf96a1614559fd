"""One stage from the model it starts from to a stored or registered checkpoint."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import filelock

from ilp_mlflow.core import cache
from ilp_mlflow.core.config import Experiment, TokenizerConfig
from ilp_mlflow.core.errors import ConfigError, IlpError, suggest
from ilp_mlflow.core.terminal.progress import task
from ilp_mlflow.core.values import Checkpoint, Exposure, Stage, as_json, to_table
from ilp_mlflow.data.samples import samples_digest, stage_digest
from ilp_mlflow.scoring.models import loading
from ilp_mlflow.scoring.models.loading import LoadedModel
from ilp_mlflow.scoring.tokens import encoding
from ilp_mlflow.tracking import model_registry, runs
from ilp_mlflow.tracking.dataset_inputs import DIGEST_LENGTH, log_dataset
from ilp_mlflow.tracking.model_digest import model_digest
from ilp_mlflow.training.accounts.row_account import RowAccount
from ilp_mlflow.training.preflight import check_experiment
from ilp_mlflow.training.resume import STATE_FILE
from ilp_mlflow.training.trainer import TrainedStage, train_stage

StoreModel = Callable[[str, str], str]
"""Stores a model: given its name and its folder, returns its URI."""


def run_stage(experiment: Experiment, name: str, parent: str | None, parent_run: str | None) -> str:
    """Train and register one stage in a run of its own; return the run's id.

    `parent` is the URI of the model to start from; left out, it is the newest version of the stage
    before, for the first stage the base. `parent_run` makes the run a child of that one. Raises
    IlpError.
    """
    names = [stage.name for stage in experiment.stages]
    if name not in names:
        raise ConfigError(
            f"no stage '{name}' in experiment '{experiment.name}'; {suggest(name, names)}"
        )
    index = names.index(name)
    if parent is None and index > 0:
        parent = f"models:/{experiment.name}.{names[index - 1]}@latest"
    stage = check_experiment(experiment, parent)[index]
    with runs.start(name, "stage", parent=parent_run) as run_id:
        start = model_registry.register_base(parent or experiment.model, run_id)
        train_and_register(experiment, stage, start, run_id)
    return run_id


def train_and_register(experiment: Experiment, stage: Stage, parent: str, run_id: str) -> None:
    """Train `stage` from the model at the URI `parent`, all on the run `run_id`.

    The model is registered as `<experiment>.<stage>`. Logs `ilp/checkpoints.json` (those inside the
    stage first), `ilp/exposures.parquet`, `ilp/signals.parquet`, `ilp/accounts.parquet` and
    `ilp/training_logs.json`. Raises IlpError.
    """
    tags = version_tags(experiment, stage, parent, run_id)
    index = tags["ilp.index"]
    # before training, so that a run that fails says what it was, too
    _describe_run(experiment, stage, index, parent, run_id)
    config = experiment.stages[index - 1].data
    data = log_dataset(run_id, stage.name, stage.samples, "training", config)
    model_registry.log_model_inputs(run_id, [parent])

    def register(name: str, folder: str) -> str:
        return model_registry.register(f"{experiment.name}.{name}", folder, run_id, tags)

    checkpoints, trained = fit_stage(experiment, stage, parent, run_id, register)
    runs.write(run_id, "checkpoints.json", as_json(checkpoints))
    runs.write(run_id, "exposures.parquet", to_table(trained.exposures, Exposure))
    runs.write(run_id, "signals.parquet", trained.signals)
    runs.write(run_id, "accounts.parquet", to_table(trained.accounts, RowAccount))
    runs.write(run_id, "training_logs.json", as_json([trained.log]))
    model_uri = checkpoints[-1].model_uri
    runs.log(
        run_id,
        metrics={"tokens": trained.tokens, "seconds": trained.seconds},
        tags={"ilp.model_uri": model_uri},
        model=model_registry.model_id(model_uri),
        data=data,
    )


def _describe_run(
    experiment: Experiment, stage: Stage, index: int, parent: str, run_id: str
) -> None:
    """Log what the run is going to train: a sentence, parameters, digest; `index` counts from 1."""
    note = (
        f"Stage {index} of {len(experiment.stages)} of `{experiment.name}`: "
        f"{len(stage.samples)} samples, trained from `{parent}`."
    )
    digest = training_digest(experiment, stage, parent)
    runs.log(
        run_id,
        params={f"ilp.{name}": value for name, value in stage_settings(stage).items()},
        tags={"mlflow.note.content": note, "ilp.training": digest},
    )


def stage_settings(stage: Stage) -> dict[str, Any]:
    """What a stage is trained with: data, order, options of PEFT (`peft.` in front) and of TRL."""
    settings: dict[str, Any] = {
        "data": samples_digest(stage.samples)[:DIGEST_LENGTH],
        "rows": len(stage.samples),
    }
    if stage.schedule != "shuffled":
        settings["schedule"] = stage.schedule
    if stage.score_every:
        settings["score_every"] = stage.score_every
    if stage.peft:
        settings["adapter"] = stage.adapter
        for name, value in stage.peft.items():
            settings[f"peft.{name}"] = value
    settings.update(stage.training)
    return settings


def training_digest(experiment: Experiment, stage: Stage, parent: str) -> str:
    """SHA-256 of a training of `stage` from the model at the URI `parent`: equal for equal ones."""
    return _digest([parent, stage_digest(stage), experiment.tokenizer.model_dump_json()])


def version_tags(experiment: Experiment, stage: Stage, parent: str, run_id: str) -> dict[str, Any]:
    """Tags of the version that a run registers of `stage`, trained from the model at `parent`."""
    tags = {
        "kind": "stage",
        "experiment": experiment.name,
        "stage": stage.name,
        "index": 1 + [s.name for s in experiment.stages].index(stage.name),
        "parent": parent,
        "base": model_registry.base_of(parent),
        "data_digest": samples_digest(stage.samples),
        "run_id": run_id,
    }
    return {f"ilp.{name}": value for name, value in tags.items()}


def fit_stage(
    experiment: Experiment, stage: Stage, parent: str, run_id: str, store_model: StoreModel
) -> tuple[list[Checkpoint], TrainedStage]:
    """Train `stage` from the model at the URI `parent`, and have the result stored.

    A training of the same that was interrupted before goes on behind its last saved round. Metrics
    go to the run `run_id`, `<stage>/` in front of their names.

    Returns the checkpoints, those inside the stage first and the final one last. Raises IlpError.
    """
    parts = model_registry.resolve_parts(parent)
    saved_parent = _saved_parent(stage, parent, parts)
    with_tokenizer = _has_own_tokenizer(experiment, parts)
    with task("load the model to start from"):
        start = _load_start(experiment, stage, parts)
    checkpoints: list[Checkpoint] = []

    def log(metrics: dict[str, float], step: int) -> None:
        stage_metrics = {f"{stage.name}/{name}": value for name, value in metrics.items()}
        runs.log(run_id, metrics=stage_metrics, step=step)

    with (
        tempfile.TemporaryDirectory() as scratch,
        _resume_folder(experiment, stage, parts) as resume_folder,
    ):

        def save_model(model: LoadedModel, name: str) -> str:
            folder = Path(scratch) / name
            loading.save_model(model, folder, saved_parent, with_tokenizer, parts[0])
            return str(folder)

        def save_checkpoint(model: LoadedModel, step: int) -> None:
            name = f"{stage.name}@{step}"
            uri = model_registry.store(name, save_model(model, name), run_id)
            checkpoints.append(Checkpoint(name=name, model_uri=uri, run_id=run_id, step=step))

        # what cannot be resumed is saved all the same, into a folder that goes with this process
        folder = resume_folder or Path(scratch) / "trainer"
        trained = train_stage(stage, start, folder, log, save_checkpoint)
        with task(f"store {stage.name}"):
            uri = store_model(stage.name, save_model(trained.loaded, stage.name))
    checkpoints.append(Checkpoint(name=stage.name, model_uri=uri, run_id=run_id))
    return checkpoints, trained


def train_copy(experiment: Experiment, stage: Stage, parent: str) -> LoadedModel:
    """A copy of the model at the URI `parent`, trained on `stage`; not stored. Raises IlpError."""
    start = _load_start(experiment, stage, model_registry.resolve_parts(parent))
    with tempfile.TemporaryDirectory() as scratch:
        return train_stage(stage, start, Path(scratch)).loaded


def train_into(experiment: Experiment, stage: Stage, parent: str, folder: Path) -> None:
    """Write the model at the URI `parent`, trained on `stage`, into a folder and nowhere else.

    Where the training stands is not kept: one that is interrupted leaves nothing. Raises IlpError.
    """
    parts = model_registry.resolve_parts(parent)
    loaded = train_copy(experiment, stage, parent)
    saved_parent = _saved_parent(stage, parent, parts)
    with_tokenizer = _has_own_tokenizer(experiment, parts)
    loading.save_model(loaded, folder, saved_parent, with_tokenizer, parts[0])


@contextlib.contextmanager
def _resume_folder(
    experiment: Experiment, stage: Stage, parts: Sequence[str]
) -> Iterator[Path | None]:
    """Folder to save this training in, so that it can be resumed; deleted when it is done.

    The folder's name is a digest of all that decides the result: model, stage, tokenizer, TRL. None
    while another process trains the same, where the cache cannot be written, and for a stage with
    checkpoints inside: those from before the interruption are on the run that was interrupted.
    """
    digest = _digest(
        [
            *map(model_digest, parts),
            stage_digest(stage),
            experiment.tokenizer.model_dump_json(),
            version("trl"),
            # names the layout of what is saved: another layout cannot be resumed from
            STATE_FILE,
        ]
    )
    folder = cache.folder() / "training" / digest
    lock = filelock.FileLock(f"{folder}.lock", timeout=0)
    with cache.best_effort():
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Timeout: another process trains the same, and two would write over each other
        with contextlib.suppress(filelock.Timeout):
            lock.acquire()
    if not lock.is_locked:
        yield None
        return
    try:
        yield None if stage.score_every else folder
        shutil.rmtree(folder, ignore_errors=True)
    except IlpError:
        # resumed, it would fail again; any other error or an interrupt leaves the folder there
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        lock.release()


def _load_start(experiment: Experiment, stage: Stage, parts: Sequence[str]) -> LoadedModel:
    """The model made of `parts`, ready to be trained as `stage` wants it."""
    init_kwargs = stage.training.get("model_init_kwargs") or {}
    merge = not _continues_adapter(stage, parts)
    return loading.load_model(
        parts, experiment.tokenizer, merge=merge, trainable=True, **init_kwargs
    )


def _continues_adapter(stage: Stage, parts: Sequence[str]) -> bool:
    """Whether the parent's adapter is trained on; else it is merged into the weights."""
    return len(parts) > 1 and stage.peft is not None and stage.adapter == "continue"


def _saved_parent(stage: Stage, parent: str, parts: Sequence[str]) -> str:
    """URI of the model that a saved adapter of this stage sits on."""
    if _continues_adapter(stage, parts):
        return str(model_registry.adapter_base(parts[-1]))
    return parent


def _has_own_tokenizer(experiment: Experiment, parts: Sequence[str]) -> bool:
    """Whether a tokenizer is saved with the stage: one set here or by a stage below it."""
    is_configured = experiment.tokenizer != TokenizerConfig()
    return is_configured or any(encoding.has_tokenizer(part) for part in parts[1:])


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
