"""What a run says of its experiment, and of the mitigations that were tried on it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ilp_mlflow.core import config
from ilp_mlflow.core.config import Experiment
from ilp_mlflow.core.errors import ConfigError
from ilp_mlflow.core.terminal.progress import task
from ilp_mlflow.core.values import Outcome, Request, Sample, Stage, as_json
from ilp_mlflow.data.samples import samples_to_table
from ilp_mlflow.mitigation import search
from ilp_mlflow.mitigation.search import SearchOptions, SearchResult
from ilp_mlflow.tracking import runs
from ilp_mlflow.tracking.dataset_inputs import log_dataset
from ilp_mlflow.training.stage import stage_settings

SHARED_METRICS = ("recovered", "regressed", "net_recovery", "held", "guard_lost")
"""Metrics of a mitigation's run that its parent has, too, as `<metric>/<mitigation>`."""


def log_experiment(run_id: str, experiment: Experiment, stages: Sequence[Stage]) -> None:
    """Log on the run what an experiment is: its settings and its samples."""
    with task("log data", 3) as advance:
        _log_settings(run_id, experiment, stages)
        advance(1)
        log_data(run_id, experiment, stages, "training")
        runs.write(run_id, "experiment.yaml", config.dump(experiment))
        advance(1)
        samples: list[Sample] = []
        for stage in stages:
            samples += stage.samples
        runs.write(run_id, "samples.parquet", samples_to_table(samples))
        advance(1)


def _log_settings(run_id: str, experiment: Experiment, stages: Sequence[Stage]) -> None:
    """Log the experiment's and its stages' settings as parameters."""
    # MLflow changes no parameter: of a run that goes on, the runs of its stages say what is new.
    known = runs.params(run_id)
    params = _identity(experiment)
    for stage in stages:
        for name, value in stage_settings(stage).items():
            key = f"ilp.{stage.name}.{name}"
            # The experiment's own seed stands for all stages.
            is_shared_seed = name == "seed" and value == experiment.seed
            if key not in known and not is_shared_seed:
                params[key] = value
    runs.log(run_id, params=params)


def _identity(experiment: Experiment) -> dict[str, str]:
    """What a run says of its experiment once and for all, as MLflow keeps it."""
    return {
        "ilp.name": experiment.name,
        "ilp.model": experiment.model,
        "ilp.seed": str(experiment.seed),
        "ilp.preset": experiment.scoring.preset,
    }


def check_same_experiment(experiment: Experiment, run_id: str) -> None:
    """Raise ConfigError when a run is of another experiment, model, seed or preset."""
    logged = runs.params(run_id)
    for name, value in _identity(experiment).items():
        if logged.get(name) == value:
            continue
        if name in logged:
            mismatch = f"is of {name.removeprefix('ilp.')} {logged[name]}"
        else:
            mismatch = "is not of an experiment"
        raise ConfigError(
            f"run {run_id} {mismatch}, this is {value}; leave out --run-id for a new run"
        )


def log_data(run_id: str, experiment: Experiment, stages: Sequence[Stage], context: str) -> None:
    """Log the samples of every stage as a data set of the run; `context` says what for."""
    for stage, configured in zip(stages, experiment.stages, strict=True):
        log_dataset(run_id, stage.name, stage.samples, context, configured.data)


def log_mitigations(
    run_id: str, options_by_name: Mapping[str, dict[str, Any]], wanted: SearchOptions
) -> None:
    """Log in the run's experiment which mitigations were tried, and with which options."""
    logged = runs.read_experiment(None, run_id)
    mitigations = dict(options_by_name)
    # What was tried earlier stays beside those that alone were wanted now.
    if wanted.only:
        mitigations = logged.mitigations | mitigations
    tried = logged.model_copy(update={"mitigations": mitigations})
    runs.write(run_id, "experiment.yaml", config.dump(tried))


def add_earlier(result: SearchResult, run_id: str) -> SearchResult:
    """A result behind what the run has of other mitigations. Raises TrackingError."""
    tried = {outcome.mitigation for outcome in result.outcomes} | set(result.requests)
    outcomes = []
    for value in json.loads(runs.read(run_id, "outcomes.json")):
        outcome = Outcome.model_validate(value)
        if outcome.mitigation not in tried:
            outcomes.append(outcome)
    requests = {}
    for name, value in json.loads(runs.read(run_id, "requests.json")).items():
        if name not in tried:
            requests[name] = Request.model_validate(value)
    return replace(result, outcomes=outcomes + result.outcomes, requests=requests | result.requests)


def log_outcomes(experiment: Experiment, run_id: str, result: SearchResult) -> None:
    """Log what came of mitigations on the run, and register the best model."""
    requests = {name: request.model_dump() for name, request in result.requests.items()}
    runs.write(run_id, "outcomes.json", as_json(result.outcomes))
    runs.write(run_id, "requests.json", json.dumps(requests, indent=1))
    for outcome in result.outcomes:
        metrics = runs.metrics(outcome.run_id)
        shared = {}
        for name in SHARED_METRICS:
            if name in metrics:
                shared[f"{name}/{outcome.mitigation}"] = metrics[name]
        runs.log_changed(run_id, shared)
    best_uri = search.register_best(experiment, result, run_id)
    if best_uri:
        runs.log(run_id, tags={"ilp.mitigated": best_uri})
