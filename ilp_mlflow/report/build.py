"""Puts together what a run found, from the artifacts that its steps left on it."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version

from ilp_mlflow.core import config
from ilp_mlflow.core.config import Experiment, TrackingConfig
from ilp_mlflow.core.training_log import LossCourse
from ilp_mlflow.core.values import Checkpoint, Report, Sample, Verdict, to_rows
from ilp_mlflow.diagnosis.context import TRAINING_TABLES, read_logs
from ilp_mlflow.diagnosis.loss_course import read_course
from ilp_mlflow.report.sentences import is_weak
from ilp_mlflow.report.verdict_sentences import count_verdicts
from ilp_mlflow.scoring.metrics import recognition_shares, recognition_unscored
from ilp_mlflow.scoring.verdicts.timeline import (
    retention_by_stage,
    status_histories,
    unscored_by_stage,
    verdict_table,
)
from ilp_mlflow.scoring.verdicts.unscored import group_unscored
from ilp_mlflow.tracking import runs

PACKAGES = ("ilp-mlflow", "mlflow", "torch", "transformers", "trl", "peft")
"""Those whose versions a report states."""


def build_report(
    experiment: Experiment,
    run_id: str,
    samples: Sequence[Sample],
    checkpoints: Sequence[Checkpoint],
) -> Report:
    """Everything that was found of a run.

    `samples` and `checkpoints` are the run's own, the base first. Raises TrackingError when the run
    has not been diagnosed.
    """
    scores = runs.read_table(run_id, "scores.parquet")
    judgements = runs.read_table(run_id, "judgements.parquet")
    names = [c.name for c in checkpoints]
    stage_of = {sample.id: sample.stage for sample in samples}
    verdicts = to_rows(verdict_table(judgements, names), Verdict)
    missing = [name for name in TRAINING_TABLES if not runs.has(run_id, f"{name}.parquet")]
    retention = retention_by_stage(judgements, stage_of, names)
    return Report(
        name=experiment.name,
        run_id=run_id,
        preset=experiment.scoring.preset,
        checkpoints=tuple(checkpoints),
        retention=retention,
        unscored_by_stage=unscored_by_stage(judgements, stage_of, names),
        verdict_counts=count_verdicts(verdicts, stage_of),
        recognition=recognition_shares(scores, names),
        recognition_unscored=recognition_unscored(scores, names),
        unscored=group_unscored(verdicts),
        verdicts=tuple(verdicts),
        histories=status_histories(judgements, names),
        diagnoses=json.loads(runs.read(run_id, "diagnoses.json")),
        findings=json.loads(runs.read(run_id, "findings.json")),
        loss_courses=_loss_courses(run_id, retention, verdicts, stage_of),
        outcomes=json.loads(runs.read(run_id, "outcomes.json")),
        requests=json.loads(runs.read(run_id, "requests.json")),
        asked=experiment.scoring.asked,
        repeatable=runs.tags(run_id).get("ilp.trained") == "true",
        unavailable=tuple(missing),
        settings=_shareable_settings(experiment),
        versions=_versions(),
    )


def _loss_courses(
    run_id: str,
    retention: Mapping[str, Mapping[str, float | None]],
    verdicts: Sequence[Verdict],
    stage_of: Mapping[str, str],
) -> dict[str, LossCourse]:
    """How the loss of the stages went that taught few of their rows, as far as that is known."""
    weak = [stage for stage, shares in retention.items() if is_weak(shares.get(stage))]
    if not weak:
        return {}
    logs = {log.stage: log for log in read_logs(run_id)}
    signals = None
    if runs.has(run_id, "signals.parquet"):
        signals = runs.read_table(run_id, "signals.parquet")
    courses = {}
    for stage in weak:
        ids = []
        for verdict in verdicts:
            if verdict.status == "unlearned" and stage_of[verdict.sample_id] == stage:
                ids.append(verdict.sample_id)
        course = read_course(stage, frozenset(ids), logs.get(stage), signals)
        if course is not None:
            courses[stage] = course
    return courses


def _shareable_settings(experiment: Experiment) -> str:
    """The experiment as YAML without the place of its results."""
    # The address of a tracking server may hold a password.
    return config.dump(experiment.model_copy(update={"tracking": TrackingConfig()}))


def _versions() -> dict[str, str]:
    """Versions of what made the report, by package."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        versions[package] = version(package)
    return versions
