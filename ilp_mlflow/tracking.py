"""The MLflow side: runs, artifacts, registered models. The only module that talks to MLflow's tracking and registry."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # stdout belongs to --json
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
import pyarrow as pa
import pyarrow.parquet as pq
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from ilp_mlflow.config import TrackingConfig
from ilp_mlflow.errors import ConfigError, ModelError, TrackingError, suggest
from ilp_mlflow.types import Checkpoint

logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)

HUB_NAME = re.compile(r"^[\w.-]+(/[\w.-]+)?$")
MLFLOW_URI = re.compile(r"^(models|runs|mlflow-artifacts):/")
FOLDER = "ilp"
"""Artifact folder of everything we log on the parent run."""


def point(config: TrackingConfig) -> None:
    """Point MLflow at the experiment's store, without asking it anything."""
    if config.uri:
        mlflow.set_tracking_uri(config.uri)


def connect(config: TrackingConfig, name: str) -> None:
    """Point MLflow at the experiment's store and choose the experiment. Raises TrackingError when it does not answer."""
    point(config)
    with _answering():
        if "MLFLOW_RUN_ID" not in os.environ:  # inside `mlflow run` the experiment is chosen already
            mlflow.set_experiment(config.experiment or name)


@contextlib.contextmanager
def run(name: str, kind: str, *, run_id: str | None = None, parent: str | None = None) -> Iterator[str]:
    """A run that ends FINISHED, FAILED or KILLED; yields its id.

    `run_id` continues that run; inside `mlflow run` the first call continues the project's run. A new run is a
    child of `parent` when given. Raises TrackingError when `run_id` is unknown.
    """
    project = os.environ.pop("MLFLOW_RUN_ID", None)
    given = run_id or project
    with _answering():
        if given:
            MlflowClient().get_run(given)
        tags = {"ilp.kind": kind}
        active = mlflow.start_run(
            run_id=given, run_name=None if given else name, nested=mlflow.active_run() is not None, parent_run_id=parent, tags=tags
        )
        if given and not run_id:
            mlflow.set_tag("mlflow.runName", name)
    status = "FAILED"
    try:
        yield active.info.run_id
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        mlflow.end_run(status)


def log(
    run_id: str,
    *,
    metrics: Mapping[str, float] | None = None,
    step: int = 0,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, Any] | None = None,
) -> None:
    """Log metrics (at `step`), parameters and tags of a run in one request."""
    now = mlflow.utils.time.get_current_time_millis()
    MlflowClient().log_batch(
        run_id,
        metrics=[Metric(k, float(v), now, step) for k, v in (metrics or {}).items()],
        params=[Param(k, str(v)) for k, v in (params or {}).items()],
        tags=[RunTag(k, str(v)) for k, v in (tags or {}).items()],
    )


def write(run_id: str, name: str, content: str | pa.Table) -> None:
    """Store an artifact `ilp/<name>`: text, or a table as Parquet."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / name
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            pq.write_table(content, path)
        MlflowClient().log_artifact(run_id, str(path), FOLDER)


def read(run_id: str, name: str) -> Path:
    """The artifact `ilp/<name>` as a local file. Raises TrackingError when the run does not have it."""
    try:
        return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=f"{FOLDER}/{name}"))
    except (MlflowException, OSError):
        raise TrackingError(f"run {run_id} has no artifact {FOLDER}/{name}; was the step before it finished?") from None


def has(run_id: str, name: str) -> bool:
    """Whether a run has the artifact `ilp/<name>`."""
    return any(f.path == f"{FOLDER}/{name}" for f in MlflowClient().list_artifacts(run_id, FOLDER))


def read_table(run_id: str, name: str) -> pa.Table:
    """The Parquet artifact `ilp/<name>` as columns. Raises TrackingError, see `read`."""
    return pq.read_table(read(run_id, name))


def read_checkpoints(run_id: str) -> list[Checkpoint]:
    """The checkpoints a run made, in order. Raises TrackingError, see `read`."""
    return [Checkpoint.model_validate(c) for c in json.loads(read(run_id, "checkpoints.json").read_text("utf-8"))]


def log_table(run_id: str, name: str, table: pa.Table) -> None:
    """Store a table that the MLflow UI shows and compares across runs."""
    MlflowClient().log_table(run_id, table.to_pandas(), f"{FOLDER}/{name}")


def find_parent(name: str, run_id: str | None) -> str:
    """The run with results of the experiment `name`: `run_id`, or its newest. Raises TrackingError when there is none."""
    with _answering():
        if run_id:
            return str(MlflowClient().get_run(run_id).info.run_id)
        ids = [e.experiment_id for e in MlflowClient().search_experiments()]
        found = MlflowClient().search_runs(
            ids, f"tags.`ilp.kind` = 'experiment' and params.`ilp.name` = '{name}'", order_by=["start_time DESC"], max_results=1
        )
    if not found:
        raise TrackingError(
            f"no run of experiment '{name}' in {mlflow.get_tracking_uri()}; run 'ilp train' first, or give --run-id"
        )
    return str(found[0].info.run_id)


def children(parent: str, kind: str) -> list[Run]:
    """Finished child runs of a kind, oldest first."""
    experiment = MlflowClient().get_run(parent).info.experiment_id
    query = f"tags.`mlflow.parentRunId` = '{parent}' and tags.`ilp.kind` = '{kind}' and attributes.status = 'FINISHED'"
    return list(MlflowClient().search_runs([experiment], query, order_by=["start_time ASC"]))


def link(run_id: str) -> str:
    """Address of a run's page in the MLflow UI; for a store without a server, the one `mlflow ui` will have."""
    uri = mlflow.get_tracking_uri()
    host = uri.rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"
    experiment = MlflowClient().get_run(run_id).info.experiment_id
    return f"{host}/#/experiments/{experiment}/runs/{run_id}?workflowType=machine_learning"


def serve_hint() -> str | None:
    """The command that opens the UI on this store, or None when a server is running already."""
    uri = mlflow.get_tracking_uri()
    return None if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}"


def locate(location: str, base: str | None = None) -> list[str]:
    """The parts a model is made of: its base (folder or Hub id), then adapter folders, each on top of those before.

    `location` is an MLflow URI, a local folder or a Hub id. An adapter names the model below it by an MLflow URI (ours
    do); one trained elsewhere names a path of its own machine, so `base` stands in, then that name itself.
    Raises ModelError when something is not found or an adapter has no base.
    """
    folder = _folder(location)
    if not (Path(folder) / "adapter_config.json").exists():
        return [folder]
    name = below(folder)
    if not MLFLOW_URI.match(name):
        name = base or name
    if not name:
        raise ModelError(f"{location}: an adapter that does not name its base; give the base as the first checkpoint")
    return [*locate(name, base), folder]


def below(adapter: str) -> str:
    """What an adapter folder names as the model it sits on, "" when it names none. Raises ModelError."""
    config = Path(adapter) / "adapter_config.json"
    try:
        return json.loads(config.read_text(encoding="utf-8")).get("base_model_name_or_path") or ""
    except (ValueError, AttributeError):
        raise ModelError(f"{config}: not a valid adapter configuration") from None


def register_base(location: str, digest: Callable[[str], str], run_id: str) -> str:
    """Register the base model unless it is already, and return its version's URI.

    A model in MLflow is taken as it is; a Hub id becomes an external model, nothing copied; a local folder is stored
    once per content, as told by `digest`. Raises ModelError when the folder is an adapter.
    """
    if MLFLOW_URI.match(location):
        return _version_uri(location)
    local = Path(location).is_dir()
    if local and (Path(location) / "adapter_config.json").exists():
        raise ModelError(f"model '{location}' is an adapter; give the model it was trained on, or one that has it merged in")
    name = re.sub(r"[/:]", ".", Path(location).resolve().name if local else location)
    key = digest(location) if local else location
    for version in MlflowClient().search_model_versions(f"name = '{name}'"):
        if version.tags.get("ilp.digest") == key:
            return f"models:/{name}/{version.version}"
    tags = {"ilp.kind": "base", "ilp.digest": key}
    if local:
        return register(name, location, run_id, tags)
    model = mlflow.create_external_model(name=_plain(name), source_run_id=run_id, tags={"ilp.hub": location})
    return _version(name, model.model_id, run_id, tags | {"ilp.hub": location})


def base_of(uri: str) -> str:
    """URI of the base below a registered stage; a model that is no stage is its own base."""
    version = re.fullmatch(r"models:/([^/@]+)/(\d+)", _version_uri(uri))
    with _found(uri):
        tags = MlflowClient().get_model_version(version[1], version[2]).tags if version else {}
    return str(tags.get("ilp.base", uri))


def register(name: str, folder: str, run_id: str, tags: Mapping[str, Any]) -> str:
    """Store a model folder and register it as a new version of `name`; return the version's URI.

    MLflow keeps the alias `latest` for the newest version by itself.
    """
    return _version(name, store(name, folder, run_id).removeprefix("models:/"), run_id, tags)


def store(name: str, folder: str, run_id: str) -> str:
    """Store a model folder as a logged model of a run, unregistered; return its URI."""
    experiment = MlflowClient().get_run(run_id).info.experiment_id
    model = mlflow.initialize_logged_model(name=_plain(name), source_run_id=run_id, experiment_id=experiment)
    try:
        MlflowClient().log_model_artifacts(model.model_id, folder)
    except BaseException:
        mlflow.finalize_logged_model(model.model_id, "FAILED")
        raise
    mlflow.finalize_logged_model(model.model_id, "READY")
    return f"models:/{model.model_id}"


def lineage(name: str | None = None) -> list[dict[str, Any]]:
    """Registered stage versions, of one experiment or of all, in order of experiment, creation."""
    with _answering():
        versions = MlflowClient().search_model_versions("tags.`ilp.kind` = 'stage'", max_results=10_000)
    rows = [
        {
            "name": v.name,
            "version": int(v.version),
            "uri": f"models:/{v.name}/{v.version}",
            **{key: v.tags.get(f"ilp.{key}") for key in ("experiment", "stage", "index", "parent", "base", "data_digest")},
            "run_id": v.run_id,
            "created": v.creation_timestamp,
        }
        for v in versions
    ]
    if name and name not in {r["experiment"] for r in rows}:
        known = {str(r["experiment"]) for r in rows}
        raise TrackingError(f"no registered stages of experiment '{name}' in {mlflow.get_tracking_uri()}; {suggest(name, known)}")
    return sorted((r for r in rows if name in (None, r["experiment"])), key=lambda r: (r["experiment"], r["created"]))


def launch_stage(parameters: Mapping[str, str], name: str, backend: str, backend_config: Mapping[str, Any]) -> str:
    """Run the `stage` entry point of the project in this folder as a child of the active run; return the child's id.

    Raises ConfigError when there is no MLproject here or the backend is unknown, TrackingError when the run fails.
    """
    if not Path("MLproject").exists():
        raise ConfigError(f"launch: project needs an MLproject file in the current folder ({Path.cwd()}); start there")
    active = mlflow.active_run()
    assert active is not None
    try:
        submitted = mlflow.projects.run(
            ".",
            entry_point="stage",
            parameters=dict(parameters),
            experiment_id=active.info.experiment_id,
            backend=backend,
            backend_config=dict(backend_config),
            env_manager="local" if backend == "local" else None,
            run_name=name,
        )
    except MlflowException as error:
        raise TrackingError(f"stage '{name}' as a project run on backend '{backend}': {_line(error)}") from None
    return str(submitted.run_id)


def doctor() -> dict[str, str]:
    """The tracking URI and whether it answers."""
    uri = mlflow.get_tracking_uri()
    try:
        with _answering():
            MlflowClient().search_experiments(max_results=1)
        return {"tracking": f"{uri} answers"}
    except TrackingError as error:
        return {"tracking": str(error)}


def _version(name: str, model_id: str, run_id: str, tags: Mapping[str, Any]) -> str:
    client = MlflowClient()
    with contextlib.suppress(MlflowException):  # it exists already
        client.create_registered_model(name)
    texts = {key: str(value) for key, value in tags.items()}
    version = client.create_model_version(name, f"models:/{model_id}", run_id, tags=texts, model_id=model_id)
    return f"models:/{name}/{version.version}"


def _plain(name: str) -> str:
    """A name with the characters a logged model's name cannot have replaced."""
    return re.sub(r"[/:.%]", "-", name)


def _version_uri(uri: str) -> str:
    """A `models:/` URI with its alias resolved to the version it means now."""
    match = re.fullmatch(r"models:/([^/@]+)(?:@(.+)|/(latest))", uri)
    if not match:
        return uri
    with _found(uri):
        version = MlflowClient().get_model_version_by_alias(match[1], match[2] or "latest").version
    return f"models:/{match[1]}/{version}"


def _folder(location: str) -> str:
    """A local folder or Hub id for a location."""
    if MLFLOW_URI.match(location):
        return _download(location)
    if Path(location).is_dir():
        return location
    if HUB_NAME.match(location):
        return location
    raise ModelError(
        f"model '{location}': no such folder, and neither an MLflow URI (models:/name@alias) nor a Hub id (owner/name)"
    )


def _download(uri: str) -> str:
    """A registered or logged model as a local folder, downloaded once per model id; a Hub id for an external model."""
    version = re.fullmatch(r"models:/([^/@]+)/(\d+)", _version_uri(uri))
    with _found(uri):
        source = uri
        if version:
            found = MlflowClient().get_model_version(version[1], version[2])
            if "ilp.hub" in found.tags:
                return str(found.tags["ilp.hub"])
            source = found.source
        elif run := re.fullmatch(r"runs:/([^/]+)/([^/]+)", uri):
            experiment = MlflowClient().get_run(run[1]).info.experiment_id
            query = f"source_run_id = '{run[1]}' and name = '{run[2]}'"
            source = next((m.model_uri for m in MlflowClient().search_logged_models([experiment], query)), uri)
        logged = re.fullmatch(r"models:/(m-[0-9a-f]+)", source)
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ilp_mlflow" / "models"
        if not logged or not mlflow.get_tracking_uri().startswith("http"):
            return mlflow.artifacts.download_artifacts(source)
        target = cache / logged[1]
        if not target.exists():
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as scratch:
                os.rename(mlflow.artifacts.download_artifacts(source, dst_path=scratch), target)
        return str(target)


@contextlib.contextmanager
def _found(uri: str) -> Iterator[None]:
    try:
        yield
    except (MlflowException, OSError) as error:
        raise ModelError(
            f"model '{uri}' is not in {mlflow.get_tracking_uri()} ({_line(error)}); 'ilp stages' lists what is"
        ) from None


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        raise TrackingError(f"MLflow at {mlflow.get_tracking_uri()}: {_line(error)}") from None
    except Exception as error:  # each store has its own kinds (SQLAlchemy, requests)
        raise TrackingError(f"MLflow at {mlflow.get_tracking_uri()} does not answer ({_line(error)}); check tracking.uri") from None


def _line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
