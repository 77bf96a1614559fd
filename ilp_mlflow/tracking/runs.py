"""The runs of an experiment in MLflow: started, logged, read and found again."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import pyarrow as pa
import pyarrow.parquet as pq
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from ilp_mlflow.core import config
from ilp_mlflow.core.config import Experiment
from ilp_mlflow.core.errors import TrackingError
from ilp_mlflow.core.terminal.interrupts import defer_interrupts, was_interrupted
from ilp_mlflow.core.values import Checkpoint, Sample
from ilp_mlflow.data.samples import samples_from_table
from ilp_mlflow.tracking.connection import store_errors
from ilp_mlflow.tracking.dataset_inputs import DatasetId
from ilp_mlflow.tracking.run_context import tag_foreign_runs

FOLDER = "ilp"
"""Artifact folder of everything we log on the parent run."""
MAX_PARAMS = 100
"""Parameters that MLflow takes in one request."""
MAX_TRIALS = 100
"""Trials of a mitigation that are looked at."""
killed_runs: list[str] = []
"""Runs that an interrupt ended in this process, a child before its parent."""


class PastTrial(NamedTuple):
    """What came out of an earlier trial of a mitigation."""

    targets: int
    """Samples it was to help."""
    net_recovery: float
    """Share of them that it recovered beyond its control."""


@contextlib.contextmanager
def start(
    name: str, kind: str, *, run_id: str | None = None, parent: str | None = None
) -> Iterator[str]:
    """A run that ends FINISHED, FAILED or KILLED; yields its id.

    Runs that others start inside it have its `ilp.version` and `ilp.stage`, too. `run_id` continues
    that run, or stays in it when it is the active one; inside `mlflow run` the first call continues
    the project's run. A new run is a child of `parent` when given, and says so in its name, which
    no other run has: views that compare runs show little else. Raises TrackingError when `run_id`
    is unknown.
    """
    inherited = {"ilp.version": version("ilp-mlflow")}
    if kind == "stage":
        inherited["ilp.stage"] = name
    run_tags = {"ilp.kind": kind, **inherited}
    if run_id is not None and run_id == active_run_id():
        with _errors_logged(run_id), tag_foreign_runs(inherited):
            with defer_interrupts(), store_errors():
                mlflow.set_tags(run_tags)
            yield run_id
        # whoever started it ends it
        return
    started = None
    status = "FAILED"
    try:
        # a deferred interrupt comes when `started` is known, so that the run is ended
        with defer_interrupts(), store_errors():
            started = _start(name, run_tags, run_id, parent)
        with _errors_logged(started), tag_foreign_runs(inherited):
            yield started
        status = "FINISHED"
    except BaseException as error:
        if was_interrupted(error):
            status = "KILLED"
            if started:
                killed_runs.append(started)
        raise
    finally:
        if started:
            with defer_interrupts():
                mlflow.end_run(status)


@contextlib.contextmanager
def _errors_logged(run_id: str) -> Iterator[None]:
    """Keep the traceback of an error as the artifact `ilp/error.txt` of a run."""
    try:
        yield
    except Exception:
        # the store itself may be what failed
        with contextlib.suppress(Exception):
            write(run_id, "error.txt", traceback.format_exc())
        raise


def _start(name: str, run_tags: Mapping[str, str], run_id: str | None, parent: str | None) -> str:
    """Start or continue a run and return its id; see `start`."""
    project_run = os.environ.pop("MLFLOW_RUN_ID", None)
    continued = run_id or project_run
    # a run and its children stay in the experiment they were started in
    relative = continued or parent
    if relative:
        experiment = MlflowClient().get_run(relative).info.experiment_id
        mlflow.set_experiment(experiment_id=experiment)
    run = mlflow.start_run(
        run_id=continued,
        run_name=None if continued else name,
        nested=mlflow.active_run() is not None,
        tags=dict(run_tags),
    )
    # MLflow takes the run that happens to be active for the parent
    if parent and not continued:
        mlflow.set_tag("mlflow.parentRunId", parent)
    if not run_id:
        mlflow.set_tag("mlflow.runName", _unique_name(run.info.run_id, name))
    return str(run.info.run_id)


def _unique_name(run_id: str, name: str) -> str:
    """`name`, numbered if a sibling of the run has it, and with the parent's name behind it.

    `control 2 (my-experiment)`, if the run of `my-experiment` has a child `control` already.
    """
    client = MlflowClient()
    run = client.get_run(run_id)
    parent = run.data.tags.get("mlflow.parentRunId")
    if parent:
        suffix = f" ({client.get_run(parent).info.run_name})"
        query = f"tags.`mlflow.parentRunId` = '{parent}'"
    else:
        suffix = ""
        query = "tags.`ilp.kind` = 'experiment'"
    siblings = client.search_runs([run.info.experiment_id], query)
    taken = {sibling.info.run_name for sibling in siblings if sibling.info.run_id != run_id}
    unique = f"{name}{suffix}"
    numbers = itertools.count(2)
    while unique in taken:
        unique = f"{name} {next(numbers)}{suffix}"
    return unique


def log(
    run_id: str,
    *,
    metrics: Mapping[str, float] | None = None,
    step: int = 0,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, Any] | None = None,
    model: str | None = None,
    data: DatasetId | None = None,
) -> None:
    """Log metrics, parameters and tags of a run.

    Metrics are logged at `step`, as those of the logged model with the id `model`, on `data`.
    """
    client = MlflowClient()
    now = mlflow.utils.time.get_current_time_millis()
    dataset_name, dataset_digest = data or (None, None)
    logged_metrics = [
        Metric(name, float(value), now, step, model, dataset_name, dataset_digest)
        for name, value in (metrics or {}).items()
    ]
    logged_params = [Param(name, str(value)) for name, value in (params or {}).items()]
    logged_tags = [RunTag(name, str(value)) for name, value in (tags or {}).items()]
    # an interrupt in the middle of a write leaves the database locked, so that the end of the run
    # could not be written
    with defer_interrupts():
        client.log_batch(
            run_id, metrics=logged_metrics, params=logged_params[:MAX_PARAMS], tags=logged_tags
        )
        for first in range(MAX_PARAMS, len(logged_params), MAX_PARAMS):
            client.log_batch(run_id, params=logged_params[first : first + MAX_PARAMS])


def log_changed(run_id: str, metrics: Mapping[str, float], **options: Any) -> None:
    """Log those of the metrics that the run does not have yet, or with another value; see `log`."""
    logged = MlflowClient().get_run(run_id).data.metrics
    changed = {name: value for name, value in metrics.items() if logged.get(name) != value}
    log(run_id, metrics=changed, **options)


def write(run_id: str, name: str, content: str | pa.Table, folder: str = FOLDER) -> None:
    """Store an artifact `<folder>/<name>`: text, or a table as Parquet."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / name
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            write_parquet(content, path)
        MlflowClient().log_artifact(run_id, str(path), folder)


def write_parquet(table: pa.Table, path: Path) -> None:
    """Write a table as Parquet; numbers that hardly repeat get no dictionary.

    Of the log-probabilities of tokens a dictionary would take half as much again as they do.
    """
    repeating = []
    for column in table.schema:
        is_list = pa.types.is_list(column.type)
        kind = column.type.value_type if is_list else column.type
        if not pa.types.is_floating(kind):
            repeating.append(f"{column.name}.list.element" if is_list else column.name)
    pq.write_table(table, path, compression="zstd", use_dictionary=repeating)


def write_ui_table(run_id: str, name: str, table: pa.Table, folder: str = FOLDER) -> None:
    """Store a table `<folder>/<name>` that the MLflow UI shows and compares across runs.

    It replaces an earlier one, while MLflow's own `log_table` would append to that.
    """
    write(run_id, name, table.to_pandas().to_json(orient="split", index=False), folder)
    # the tag by which the UI finds tables, as `log_table` sets it
    run_tags = MlflowClient().get_run(run_id).data.tags
    shown = json.loads(run_tags.get("mlflow.loggedArtifacts", "[]"))
    entry = {"path": f"{folder}/{name}".lstrip("/"), "type": "table"}
    if entry not in shown:
        shown.append(entry)
    log(run_id, tags={"mlflow.loggedArtifacts": json.dumps(shown)})


def read(run_id: str, name: str) -> str:
    """The text of the artifact `ilp/<name>`. Raises TrackingError when the run does not have it."""
    with _downloaded(run_id, name) as path:
        return path.read_text(encoding="utf-8")


def read_table(run_id: str, name: str) -> pa.Table:
    """The Parquet artifact `ilp/<name>` as columns. Raises TrackingError, see `read`."""
    with _downloaded(run_id, name) as path:
        # without `pre_buffer` a quarter less memory at its peak
        return pq.read_table(path, pre_buffer=False)


@contextlib.contextmanager
def _downloaded(run_id: str, name: str) -> Iterator[Path]:
    """The artifact `ilp/<name>` as a file, deleted at the end: MLflow would leave its copies."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            path = mlflow.artifacts.download_artifacts(
                run_id=run_id, artifact_path=f"{FOLDER}/{name}", dst_path=scratch
            )
        except (MlflowException, OSError):
            hint = "was the step before it finished?"
            parent = parent_of(run_id)
            if parent:
                hint = f"it is a part of run {parent}: give that one"
            raise TrackingError(f"run {run_id} has no artifact {FOLDER}/{name}; {hint}") from None
        yield Path(path)


def has(run_id: str, name: str) -> bool:
    """Whether a run has the artifact `ilp/<name>`.

    Raises TrackingError when MLflow does not answer.
    """
    with store_errors():
        files = MlflowClient().list_artifacts(run_id, FOLDER)
    return f"{FOLDER}/{name}" in {file.path for file in files}


def read_checkpoints(run_id: str) -> list[Checkpoint]:
    """The checkpoints a run made, in order. Raises TrackingError, see `read`."""
    logged = json.loads(read(run_id, "checkpoints.json"))
    return [Checkpoint.model_validate(checkpoint) for checkpoint in logged]


def read_experiment(experiment: Experiment | None, run_id: str, *sections: str) -> Experiment:
    """The experiment as the run has it, but for `sections`: these as `experiment` has them.

    Raises TrackingError, see `read`.
    """
    logged = config.parse(read(run_id, "experiment.yaml"), Path("experiment.yaml"))
    current = {section: getattr(experiment, section) for section in sections}
    return logged.model_copy(update=current)


def read_samples(run_id: str) -> list[Sample]:
    """The samples of a run, as its training read them. Raises TrackingError, see `read`."""
    return samples_from_table(read_table(run_id, "samples.parquet"))


def run_name(run_id: str) -> str:
    """The name of a run. Raises TrackingError when MLflow does not answer or does not have it."""
    with store_errors():
        return str(MlflowClient().get_run(run_id).info.run_name)


def tags(run_id: str) -> dict[str, str]:
    """The tags of a run. Raises TrackingError, see `run_name`."""
    with store_errors():
        return dict(MlflowClient().get_run(run_id).data.tags)


def params(run_id: str) -> dict[str, str]:
    """The parameters of a run. Raises TrackingError, see `run_name`."""
    with store_errors():
        return dict(MlflowClient().get_run(run_id).data.params)


def metrics(run_id: str) -> dict[str, float]:
    """The latest value of every metric of a run."""
    return dict(MlflowClient().get_run(run_id).data.metrics)


def parent_of(run_id: str) -> str | None:
    """Id of the run that a run is a child of, or None."""
    return MlflowClient().get_run(run_id).data.tags.get("mlflow.parentRunId")


def active_run_id() -> str | None:
    """Id of the run that is active in this thread, or None."""
    run = mlflow.active_run()
    return run.info.run_id if run else None


def find_finished(parent: str, tags: Mapping[str, str]) -> str | None:
    """Id of the newest finished child of the run `parent` that has these tags, or None."""
    client = MlflowClient()
    experiment = client.get_run(parent).info.experiment_id
    wanted = {"mlflow.parentRunId": parent, **tags}
    conditions = [f"tags.`{name}` = '{value}'" for name, value in wanted.items()]
    conditions.append("attributes.status = 'FINISHED'")
    newest = client.search_runs([experiment], " and ".join(conditions), max_results=1)
    return newest[0].info.run_id if newest else None


def find_experiment_run(name: str, run_id: str | None, keep: bool = False) -> str:
    """The trained run of the experiment `name`: `run_id`, or the newest.

    Inside `mlflow run` results then belong to that run, unless the project's own run is to be kept
    for them. Raises TrackingError when there is none.
    """
    if not keep:
        os.environ.pop("MLFLOW_RUN_ID", None)
    with store_errors():
        if run_id:
            # before there is a client: that makes a store
            _check_store_exists(run_id)
            return str(MlflowClient().get_run(run_id).info.run_id)
        client = MlflowClient()
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        query = f"tags.`ilp.trained` = 'true' and params.`ilp.name` = '{name}'"
        newest = client.search_runs(experiments, query, order_by=["start_time DESC"], max_results=1)
    if not newest:
        raise TrackingError(
            f"no trained run of experiment '{name}' in {mlflow.get_tracking_uri()}; "
            "run 'ilp train' first, or give --run-id"
        )
    return str(newest[0].info.run_id)


def _check_store_exists(run_id: str) -> None:
    """Raise TrackingError where there is no store that could hold a run: MLflow would make one."""
    uri = mlflow.get_tracking_uri()
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        raise TrackingError(
            f"run {run_id}: there is no {uri}; "
            "start in the folder in which the run was made, or set MLFLOW_TRACKING_URI"
        )


def past_trials(mitigation: str) -> list[PastTrial]:
    """The finished trials of a mitigation in this store, newest first, up to MAX_TRIALS."""
    client = MlflowClient()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    query = f"tags.`ilp.mitigation` = '{mitigation}' and attributes.status = 'FINISHED'"
    metrics_by_trial = {}
    for run in client.search_runs(experiments, query, max_results=MAX_TRIALS):
        # the same trial a second time tells nothing new
        trial = run.data.tags.get("ilp.trial", run.info.run_id)
        metrics_by_trial[trial] = run.data.metrics
    return [
        # a target without a score says nothing of how many are recovered
        PastTrial(
            int(logged["targets"] - logged.get("unscored_targets", 0)), logged["net_recovery"]
        )
        for logged in metrics_by_trial.values()
        if "net_recovery" in logged
    ]
