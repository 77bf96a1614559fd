"""Put together what a run found."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from importlib.metadata import version

from ilp_mlflow.core import config
from ilp_mlflow.core.config import Experiment, TrackingConfig
from ilp_mlflow.core.values import Checkpoint, Report, Sample, Verdict, to_rows
from ilp_mlflow.diagnosis.context import TRAINING_TABLES
from ilp_mlflow.scoring.recognition import recognition_shares
from ilp_mlflow.scoring.verdicts import retention_by_stage, status_histories, verdict_table
from ilp_mlflow.tracking import runs

PACKAGES = ("ilp-mlflow", "mlflow", "torch", "transformers", "trl", "peft")
"""Those whose versions a report states."""


def build_report(
    experiment: Experiment,
    run_id: str,
    samples: Sequence[Sample],
    checkpoints: Sequence[Checkpoint],
) -> Report:
    """Everything that was found of a run, read from its artifacts. Raises TrackingError."""
    scores = runs.read_table(run_id, "scores.parquet")
    names, preset = [c.name for c in checkpoints], experiment.scoring.preset
    return Report(
        name=experiment.name,
        run_id=run_id,
        preset=preset,
        checkpoints=tuple(checkpoints),
        retention=retention_by_stage(
            scores, {s.id: s.stage for s in samples}, names, preset, experiment.seed
        ),
        recognition=recognition_shares(scores, names),
        verdicts=tuple(to_rows(verdict_table(scores, names, preset, experiment.seed), Verdict)),
        histories=status_histories(scores, names, preset, experiment.seed),
        diagnoses=tuple(json.loads(runs.read(run_id, "diagnoses.json"))),
        findings=tuple(json.loads(runs.read(run_id, "findings.json"))),
        outcomes=tuple(json.loads(runs.read(run_id, "outcomes.json"))),
        requests=json.loads(runs.read(run_id, "requests.json")),
        asked=experiment.scoring.asked,
        repeatable=runs.tags(run_id).get("ilp.trained") == "true",
        unavailable=tuple(
            name for name in TRAINING_TABLES if not runs.has(run_id, f"{name}.parquet")
        ),
        settings=config.dump(
            experiment.model_copy(update={"tracking": TrackingConfig()})
        ),  # its address may hold a password
        versions={
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
        },
    )
