"""The MLflow side of an experiment: its runs, their metrics and artifacts."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mlflow
import pyarrow as pa
import pyarrow.parquet as pq
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from ilp_mlflow.core import config
from ilp_mlflow.core.config import DataConfig, Experiment, TrackingConfig
from ilp_mlflow.core.errors import TrackingError, first_line
from ilp_mlflow.core.interrupts import defer_interrupts
from ilp_mlflow.core.values import Checkpoint, Sample
from ilp_mlflow.data.samples import samples_digest, samples_from_table
from ilp_mlflow.tracking import run_context

os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # stdout belongs to --json
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)

FOLDER = "ilp"
"""Artifact folder of everything we log on the parent run."""
killed_runs: list[str] = []
"""Runs that an interrupt ended in this process, a child before its parent."""
DIGEST = 12
"""Characters of a data set's digest that MLflow is given: it takes 36, and shows them all."""
PARAMS = 100
"""Parameters that MLflow takes in one request."""
AWAY = ("Max retries exceeded", "failed with exception", "Connection refused")
"""In MLflow's words: its server cannot be reached."""
CHECK = "check that it is up, and tracking.uri or MLFLOW_TRACKING_URI"
"""What to do when a store does not answer."""
Data = tuple[str, str]
"""Name and digest of a data set in MLflow."""


def use_store(config: TrackingConfig) -> None:
    """Point MLflow at the experiment's store, without asking it anything."""
    if config.uri:
        mlflow.set_tracking_uri(config.uri)


def connect(config: TrackingConfig, name: str) -> None:
    """Point MLflow at the experiment's store and choose the experiment. Raises TrackingError when it does not answer."""
    use_store(config)
    with store_errors():
        if (
            "MLFLOW_RUN_ID" not in os.environ
        ):  # inside `mlflow run` the experiment is chosen already
            mlflow.set_experiment(config.experiment or name)


@contextlib.contextmanager
def start(
    name: str, kind: str, *, run_id: str | None = None, parent: str | None = None
) -> Iterator[str]:
    """A run that ends FINISHED, FAILED or KILLED; yields its id. What is started inside has its `ilp.version` and `ilp.stage`, too.

    `run_id` continues that run, or stays in it when it is the active one; inside `mlflow run` the first call continues the
    project's run. A new run is a child of `parent` when given, and says so in its name, which no other run has: views that
    compare show little else. Raises TrackingError when `run_id` is unknown.
    """
    inside = run_id is not None and run_id == active_run_id()
    status, started = "FAILED", run_id if inside else None
    tags = {"ilp.version": version("ilp-mlflow")} | ({"ilp.stage": name} if kind == "stage" else {})
    try:
        with defer_interrupts(), store_errors():
            if inside:
                mlflow.set_tags({"ilp.kind": kind, **tags})
            else:
                started = _start(name, {"ilp.kind": kind, **tags}, run_id, parent)
        with run_context.tag_foreign_runs(tags):
            yield str(started)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        if started and not inside:
            killed_runs.append(started)
        raise
    except Exception:
        if started:
            with contextlib.suppress(Exception):  # the store itself may be what failed
                write(started, "error.txt", traceback.format_exc())
        raise
    finally:
        if started and not inside:
            with defer_interrupts():
                mlflow.end_run(status)


def _start(name: str, tags: Mapping[str, str], run_id: str | None, parent: str | None) -> str:
    project = os.environ.pop("MLFLOW_RUN_ID", None)
    given = run_id or project
    if (
        anchor := given or parent
    ):  # a run and its children stay in the experiment they were started in
        mlflow.set_experiment(experiment_id=MlflowClient().get_run(anchor).info.experiment_id)
    nested = mlflow.active_run() is not None
    made = mlflow.start_run(
        run_id=given, run_name=None if given else name, nested=nested, tags=dict(tags)
    )
    if parent and not given:  # and not of the run that happens to be active
        mlflow.set_tag("mlflow.parentRunId", parent)
    if not run_id:
        mlflow.set_tag("mlflow.runName", _own_name(made.info.run_id, name))
    return str(made.info.run_id)


def _own_name(run_id: str, name: str) -> str:
    """`name`, numbered if a sibling of the run has it already, and with the name of the parent behind it."""
    run = MlflowClient().get_run(run_id)
    parent = run.data.tags.get("mlflow.parentRunId")
    behind = f" ({MlflowClient().get_run(parent).info.run_name})" if parent else ""
    family = (
        f"tags.`mlflow.parentRunId` = '{parent}'" if parent else "tags.`ilp.kind` = 'experiment'"
    )
    taken = {
        r.info.run_name
        for r in MlflowClient().search_runs([run.info.experiment_id], family)
        if r.info.run_id != run_id
    }
    numbered = (f"{name} {n}{behind}" for n in itertools.count(2))
    return next(one for one in itertools.chain([f"{name}{behind}"], numbered) if one not in taken)


def log(
    run_id: str,
    *,
    metrics: Mapping[str, float] | None = None,
    step: int = 0,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, Any] | None = None,
    model: str | None = None,
    data: Data | None = None,
) -> None:
    """Log metrics (at `step`, of the logged `model` with that id, on `data`), parameters and tags of a run."""
    now = mlflow.utils.time.get_current_time_millis()
    named = [Param(k, str(v)) for k, v in (params or {}).items()]
    MlflowClient().log_batch(
        run_id,
        metrics=[
            Metric(k, float(v), now, step, model, *(data or (None, None)))
            for k, v in (metrics or {}).items()
        ],
        params=named[:PARAMS],
        tags=[RunTag(k, str(v)) for k, v in (tags or {}).items()],
    )
    for start in range(PARAMS, len(named), PARAMS):
        MlflowClient().log_batch(run_id, params=named[start : start + PARAMS])


def log_changed(run_id: str, metrics: Mapping[str, float], **what: Any) -> None:
    """Log those of the metrics that the run does not have yet, or with another value; see `log`."""
    known = MlflowClient().get_run(run_id).data.metrics
    log(run_id, metrics={k: v for k, v in metrics.items() if known.get(k) != v}, **what)


def log_dataset(
    run_id: str,
    name: str,
    samples: Sequence[Sample],
    context: str,
    origin: DataConfig | None = None,
) -> Data:
    """Log samples as a data set that went into a run: what for (`context`), and where they are from; None: they were made."""
    known = dataset_id(name, samples)
    kind, source = "code", dict[str, Any](tags={})
    if origin and origin.dataset:
        kind, source = (
            "hugging_face",
            {"path": origin.dataset, "config_name": origin.config, "split": origin.split},
        )
    elif origin:
        scheme = urlsplit(str(origin.path)).scheme
        kind, key = ("http", "url") if scheme in ("http", "https") else (scheme or "local", "uri")
        source = {key: origin.path}
    columns = [
        {"type": "string", "name": name, "required": True}
        for name in ("sample_id", "prompt", "completion")
    ]
    facts = source, {"mlflow_colspec": columns}, {"num_rows": len(samples)}
    found = Dataset(*known, kind, *map(json.dumps, facts))
    MlflowClient().log_inputs(
        run_id, [DatasetInput(found, [InputTag("mlflow.data.context", context)])]
    )
    return known


def dataset_id(name: str, samples: Sequence[Sample]) -> Data:
    """The name and digest that samples have as a data set in MLflow."""
    return name, samples_digest(samples)[:DIGEST]


def write(run_id: str, name: str, content: str | pa.Table, folder: str = FOLDER) -> None:
    """Store an artifact `<folder>/<name>`: text, or a table as Parquet."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / name
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            pq.write_table(content, path)
        MlflowClient().log_artifact(run_id, str(path), folder)


def read(run_id: str, name: str) -> str:
    """The text of the artifact `ilp/<name>`. Raises TrackingError when the run does not have it."""
    with _local(run_id, name) as path:
        return path.read_text(encoding="utf-8")


def read_table(run_id: str, name: str) -> pa.Table:
    """The Parquet artifact `ilp/<name>` as columns. Raises TrackingError, see `read`."""
    with _local(run_id, name) as path:
        return pq.read_table(path, pre_buffer=False)  # a quarter less memory at its peak


@contextlib.contextmanager
def _local(run_id: str, name: str) -> Iterator[Path]:
    """The artifact as a file that is there for the moment: MLflow leaves its own copies behind."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            path = mlflow.artifacts.download_artifacts(
                run_id=run_id, artifact_path=f"{FOLDER}/{name}", dst_path=scratch
            )
        except (MlflowException, OSError):
            parent = parent_of(run_id)
            why = (
                f"it is a part of run {parent}: give that one"
                if parent
                else "was the step before it finished?"
            )
            raise TrackingError(f"run {run_id} has no artifact {FOLDER}/{name}; {why}") from None
        yield Path(path)


def has(run_id: str, name: str) -> bool:
    """Whether a run has the artifact `ilp/<name>`. Raises TrackingError when MLflow does not answer."""
    with store_errors():
        return f"{FOLDER}/{name}" in {
            file.path for file in MlflowClient().list_artifacts(run_id, FOLDER)
        }


def read_checkpoints(run_id: str) -> list[Checkpoint]:
    """The checkpoints a run made, in order. Raises TrackingError, see `read`."""
    return [Checkpoint.model_validate(c) for c in json.loads(read(run_id, "checkpoints.json"))]


def read_experiment(experiment: Experiment | None, run_id: str, *now: str) -> Experiment:
    """The experiment as the run has it, with the sections `now` as `experiment` has them. Raises TrackingError."""
    logged = config.parse(read(run_id, "experiment.yaml"), Path("experiment.yaml"))
    return logged.model_copy(update={name: getattr(experiment, name) for name in now})


def read_samples(run_id: str) -> list[Sample]:
    """The samples of a run, as its training read them. Raises TrackingError."""
    return samples_from_table(read_table(run_id, "samples.parquet"))


def write_ui_table(run_id: str, name: str, table: pa.Table, folder: str = FOLDER) -> None:
    """Store a table `<folder>/<name>` that the MLflow UI shows and compares across runs; replaces an earlier one."""
    write(run_id, name, table.to_pandas().to_json(orient="split", index=False), folder)
    # what MLflow's own log_table sets; that one appends to the table that is there
    shown = json.loads(MlflowClient().get_run(run_id).data.tags.get("mlflow.loggedArtifacts", "[]"))
    own = {"path": f"{folder}/{name}".lstrip("/"), "type": "table"}
    log(
        run_id,
        tags={"mlflow.loggedArtifacts": json.dumps(shown if own in shown else [*shown, own])},
    )


def run_name(run_id: str) -> str:
    """The name of a run. Raises TrackingError when MLflow does not answer or does not have it."""
    with store_errors():
        return str(MlflowClient().get_run(run_id).info.run_name)


def parent_of(run_id: str) -> str | None:
    """Id of the run that a run is a child of, or None."""
    return MlflowClient().get_run(run_id).data.tags.get("mlflow.parentRunId")


def find_finished(parent: str, tags: Mapping[str, str]) -> str | None:
    """Id of the newest finished child of the run `parent` that has these tags, or None."""
    experiment = MlflowClient().get_run(parent).info.experiment_id
    wanted = {"mlflow.parentRunId": parent, **tags}
    query = " and ".join(
        [f"tags.`{k}` = '{v}'" for k, v in wanted.items()] + ["attributes.status = 'FINISHED'"]
    )
    return next(
        (r.info.run_id for r in MlflowClient().search_runs([experiment], query, max_results=1)),
        None,
    )


def tags(run_id: str) -> dict[str, str]:
    """The tags of a run. Raises TrackingError when MLflow does not answer or does not have it."""
    with store_errors():
        return dict(MlflowClient().get_run(run_id).data.tags)


def params(run_id: str) -> dict[str, str]:
    """The parameters of a run. Raises TrackingError when MLflow does not answer or does not have it."""
    with store_errors():
        return dict(MlflowClient().get_run(run_id).data.params)


def active_run_id() -> str | None:
    """Id of the run that is active in this thread, or None."""
    run = mlflow.active_run()
    return run.info.run_id if run else None


def metrics(run_id: str) -> dict[str, float]:
    """The latest value of every metric of a run."""
    return dict(MlflowClient().get_run(run_id).data.metrics)


def find_experiment_run(name: str, run_id: str | None, keep: bool = False) -> str:
    """The trained run of the experiment `name`: `run_id`, or the newest. Raises TrackingError when there is none.

    Inside `mlflow run` results then belong to that run, unless the project's own run is to be kept for them.
    """
    if not keep:
        os.environ.pop("MLFLOW_RUN_ID", None)
    with store_errors():
        if run_id:
            _there(run_id)
            return str(MlflowClient().get_run(run_id).info.run_id)
        ids = [e.experiment_id for e in MlflowClient().search_experiments()]
        query = f"tags.`ilp.trained` = 'true' and params.`ilp.name` = '{name}'"
        found = MlflowClient().search_runs(ids, query, order_by=["start_time DESC"], max_results=1)
    if not found:
        store = mlflow.get_tracking_uri()
        raise TrackingError(
            f"no trained run of experiment '{name}' in {store}; run 'ilp train' first, or give --run-id"
        )
    return str(found[0].info.run_id)


def _there(run_id: str) -> None:
    """Raise TrackingError where there is no store that could hold the run, before MLflow makes one."""
    uri = mlflow.get_tracking_uri()
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        raise TrackingError(
            f"run {run_id}: there is no {uri}; start in the folder in which the run was made, or set MLFLOW_TRACKING_URI"
        )


def run_url(run_id: str) -> str:
    """Address of a run's page in the MLflow UI; for a store without a server, the one `mlflow ui` will have."""
    return f"{_experiment_page(run_id)}/runs/{run_id}?workflowType=machine_learning"


def evaluation_url(run_id: str) -> str:
    """Address of a run in the GenAI evaluation view of the MLflow UI, see `link`."""
    return f"{_experiment_page(run_id)}/runs/{run_id}/evaluations"


def _experiment_page(run_id: str) -> str:
    uri = mlflow.get_tracking_uri()
    host = uri.rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"
    return f"{host}/#/experiments/{MlflowClient().get_run(run_id).info.experiment_id}"


def how_to_open(run_id: str) -> list[str]:
    """Lines that say how to see a run in the MLflow UI."""
    hint = ui_command()
    return (
        [f"open the MLflow UI:  {hint}", f"then go to:  {run_url(run_id)}"]
        if hint
        else [run_url(run_id)]
    )


def ui_command() -> str | None:
    """The command that opens the UI on this store, or None when a server is running already."""
    uri = mlflow.get_tracking_uri()
    return None if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}"


def past_trials(name: str) -> list[tuple[int, float]]:
    """Number of targets and net recovery 0..1 of every trial of a mitigation in this store, newest first, the last hundred."""
    client = MlflowClient()
    ids = [e.experiment_id for e in client.search_experiments()]
    runs = client.search_runs(
        ids, f"tags.`ilp.mitigation` = '{name}' and attributes.status = 'FINISHED'", max_results=100
    )
    once = {
        r.data.tags.get("ilp.trial", r.info.run_id): r.data.metrics for r in runs
    }  # tried again, it tells nothing new
    return [(int(m["targets"]), m["net_recovery"]) for m in once.values() if "net_recovery" in m]


def check_connection() -> None:
    """Raise TrackingError when MLflow does not answer."""
    with store_errors():
        MlflowClient().search_experiments(max_results=1)


def doctor() -> dict[str, str]:
    """The tracking URI and whether it answers."""
    uri = mlflow.get_tracking_uri()
    try:
        check_connection()
        return {"tracking": f"{uri} answers"}
    except TrackingError as error:
        return {"tracking": str(error)}


@contextlib.contextmanager
def store_errors() -> Iterator[None]:
    """Turn whatever a store raises into a TrackingError that names it."""
    try:
        yield
    except MlflowException as error:
        uri = mlflow.get_tracking_uri()
        if "maintenance mode" in str(error):
            raise TrackingError(
                f"MLflow at {uri}: MLflow refuses plain files as a store; set tracking.uri to sqlite:///mlflow.db"
            ) from None
        if any(sign in str(error) for sign in AWAY):
            raise TrackingError(f"MLflow at {uri} does not answer; {CHECK}") from None
        raise TrackingError(f"MLflow at {uri}: {first_line(error)}") from None
    except TrackingError:
        raise
    except Exception as error:  # each store has its own kinds (SQLAlchemy, requests)
        uri = mlflow.get_tracking_uri()
        if "migration" in str(error):
            raise TrackingError(
                f"MLflow at {uri} is being set up by another command at this moment; try again"
            ) from None
        raise TrackingError(
            f"MLflow at {uri} does not answer ({first_line(error)}); {CHECK}"
        ) from None
