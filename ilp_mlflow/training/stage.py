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
from ilp_mlflow.core.progress import task
from ilp_mlflow.core.values import Checkpoint, Exposure, Stage, as_json, to_table
from ilp_mlflow.data.samples import samples_digest, stage_digest
from ilp_mlflow.scoring import loading
from ilp_mlflow.scoring.loading import LoadedModel
from ilp_mlflow.tracking import model_registry, runs
from ilp_mlflow.tracking.dataset_inputs import DIGEST_LENGTH, log_dataset
from ilp_mlflow.tracking.model_digest import model_digest
from ilp_mlflow.training.preflight import check_experiment
from ilp_mlflow.training.trainer import TrainedStage, train_stage


def run_stage(experiment: Experiment, name: str, parent: str | None, parent_run: str | None) -> str:
    """Train and register one stage in a run of its own; return the run's id.

    `parent` is the model to start from: given, else the newest version of the stage before, else the base.
    `parent_run` makes it a child of that run. Raises IlpError.
    """
    names = [stage.name for stage in experiment.stages]
    if name not in names:
        raise ConfigError(
            f"no stage '{name}' in experiment '{experiment.name}'; {suggest(name, names)}"
        )
    index = names.index(name)
    if parent is None and index:
        parent = f"models:/{experiment.name}.{names[index - 1]}@latest"
    stage = check_experiment(experiment, parent)[index]
    with runs.start(name, "stage", parent=parent_run) as run_id:
        start = model_registry.register_base(parent or experiment.model, run_id)
        train_and_register(experiment, stage, start, run_id)
    return run_id


def train_and_register(experiment: Experiment, stage: Stage, parent: str, run_id: str) -> None:
    """Train `stage` from the model at the URI `parent` and register it as `<experiment>.<stage>`, all on the run `run_id`.

    Logs `ilp/checkpoints.json` (intermediate ones first), `ilp/exposures.parquet` and `ilp/signals.parquet`. Raises IlpError.
    """
    tags = version_tags(experiment, stage, parent, run_id)
    index = tags["ilp.index"]
    said = f"Stage {index} of {len(experiment.stages)} of `{experiment.name}`: {len(stage.samples)} samples, trained from `{parent}`."
    params = {f"ilp.{k}": v for k, v in stage_settings(stage).items()}
    runs.log(
        run_id,
        params=params,
        tags={
            "mlflow.note.content": said,
            "ilp.training": training_digest(experiment, stage, parent),
        },
    )
    data = log_dataset(
        run_id, stage.name, stage.samples, "training", experiment.stages[index - 1].data
    )
    model_registry.log_model_inputs(run_id, [parent])

    def keep(name: str, folder: str) -> str:
        return model_registry.register(f"{experiment.name}.{name}", folder, run_id, tags)

    checkpoints, done = fit_stage(experiment, stage, parent, run_id, keep)
    runs.write(run_id, "checkpoints.json", as_json(checkpoints))
    runs.write(run_id, "exposures.parquet", to_table(done.exposures, Exposure))
    runs.write(run_id, "signals.parquet", done.signals)
    uri = checkpoints[-1].model_uri
    metrics = {"tokens": done.tokens, "seconds": done.seconds}
    runs.log(
        run_id,
        metrics=metrics,
        tags={"ilp.model_uri": uri},
        model=model_registry.model_id(uri),
        data=data,
    )


def stage_settings(stage: Stage) -> dict[str, Any]:
    """What a stage is trained with, one entry each: options of TRL by their name, of PEFT behind `peft.`, order and data."""
    given = {"data": samples_digest(stage.samples)[:DIGEST_LENGTH], "rows": len(stage.samples)}
    if stage.schedule != "shuffled":
        given["schedule"] = stage.schedule
    if stage.score_every:
        given["score_every"] = stage.score_every
    if stage.peft:
        given |= {"adapter": stage.adapter, **{f"peft.{k}": v for k, v in stage.peft.items()}}
    return given | stage.training


def training_digest(experiment: Experiment, stage: Stage, parent: str) -> str:
    """Name of what is trained when `stage` is trained from the model at the URI `parent`, equal for equal trainings."""
    what = [parent, stage_digest(stage), experiment.tokenizer.model_dump_json()]
    return hashlib.sha256("\n".join(what).encode()).hexdigest()


def version_tags(experiment: Experiment, stage: Stage, parent: str, run_id: str) -> dict[str, Any]:
    """Tags of the registered version that a run makes of `stage`, trained from the model at the URI `parent`."""
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
    return {f"ilp.{k}": v for k, v in tags.items()}


def fit_stage(
    experiment: Experiment, stage: Stage, parent: str, run_id: str, keep: Callable[[str, str], str]
) -> tuple[list[Checkpoint], TrainedStage]:
    """Train `stage` from the model at `parent`; `keep` is given name and folder of the result and returns its URI.

    The same training, if it was interrupted before, goes on behind its last round that was kept.

    Returns the checkpoints, the final one last. Metrics go to the run `run_id`, `<stage>/` in front. Raises IlpError.
    """
    parts = model_registry.resolve_parts(parent)
    below = model_registry.adapter_base(parts[-1]) if _continued(stage, parts) else parent
    with task("load the model to start from"):
        loaded = _start(experiment, stage, parts)
    # a template of its own, set here or by a stage below, travels with the stage
    retokenised = experiment.tokenizer != TokenizerConfig() or any(
        loading.has_tokenizer(part) for part in parts[1:]
    )
    kept: list[Checkpoint] = []
    with tempfile.TemporaryDirectory() as scratch, _standing(experiment, stage, parts) as standing:

        def save(now: LoadedModel, name: str) -> str:
            folder = Path(scratch) / name
            loading.save_model(now, folder, str(below), retokenised)
            return str(folder)

        def inside(now: LoadedModel, step: int) -> None:
            name = f"{stage.name}@{step}"
            uri = model_registry.store(name, save(now, name), run_id)
            kept.append(Checkpoint(name=name, model_uri=uri, run_id=run_id, step=step))

        def log(metrics: dict[str, float], step: int) -> None:
            runs.log(
                run_id, metrics={f"{stage.name}/{k}": v for k, v in metrics.items()}, step=step
            )

        done = train_stage(stage, loaded, standing or Path(scratch) / "trainer", log, inside)
        with task(f"store {stage.name}"):
            uri = keep(stage.name, save(done.loaded, stage.name))
    return [*kept, Checkpoint(name=stage.name, model_uri=uri, run_id=run_id)], done


def train_copy(experiment: Experiment, stage: Stage, parent: str) -> LoadedModel:
    """A copy of the model at `parent` trained on `stage`; nothing is stored or logged. Raises IlpError."""
    with tempfile.TemporaryDirectory() as scratch:
        return train_stage(
            stage, _start(experiment, stage, model_registry.resolve_parts(parent)), Path(scratch)
        ).loaded


@contextlib.contextmanager
def _standing(experiment: Experiment, stage: Stage, parts: Sequence[str]) -> Iterator[Path | None]:
    """Folder in which a training of this very stage from this very model keeps where it stands, until it is done.

    None while another process trains the same, where nothing can be kept, and for a stage that keeps checkpoints inside, which an
    earlier run has.
    """
    what = [
        *map(model_digest, parts),
        stage_digest(stage),
        experiment.tokenizer.model_dump_json(),
        version("trl"),
    ]
    folder = cache.folder() / "training" / hashlib.sha256("\n".join(what).encode()).hexdigest()
    lock = filelock.FileLock(f"{folder}.lock", timeout=0)
    with cache.best_effort():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(filelock.Timeout):
            lock.acquire()
    if not lock.is_locked:
        yield None
        return
    try:
        yield None if stage.score_every else folder
        shutil.rmtree(folder, ignore_errors=True)
    except IlpError:  # it would fail again
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        lock.release()


def _start(experiment: Experiment, stage: Stage, parts: Sequence[str]) -> LoadedModel:
    """The model of `parts`, ready to be trained as `stage` wants it."""
    init = stage.training.get("model_init_kwargs") or {}
    return loading.load_model(
        parts, experiment.tokenizer, merge=not _continued(stage, parts), trainable=True, **init
    )


def _continued(stage: Stage, parts: Sequence[str]) -> bool:
    """The parent's adapter is trained on, not merged."""
    return len(parts) > 1 and stage.peft is not None and stage.adapter == "continue"
