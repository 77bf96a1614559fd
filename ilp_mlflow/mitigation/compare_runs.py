"""Two runs side by side, sample by sample."""

from __future__ import annotations

from typing import Any

from ilp_mlflow.core.config import Experiment
from ilp_mlflow.core.errors import TrackingError
from ilp_mlflow.core.values import Status, Verdict, to_rows
from ilp_mlflow.mitigation.outcome import mcnemar_p, transitions
from ilp_mlflow.scoring.verdicts import Preset, verdict_table
from ilp_mlflow.tracking import runs


def compare_runs(run_a: str, run_b: str) -> dict[str, Any]:
    """What became of every sample from one diagnosed run, or run of a mitigation, to another.

    Both are judged by the rule of the first. Ids by the names of `outcome.transitions`, and `p_value` of the exact McNemar test over
    recovered and regressed samples. Raises TrackingError when a run is unknown or holds no scores, or the two share no sample.
    """
    rule = _diagnosed(run_a).scoring.preset
    found: dict[str, Any] = dict(transitions(_statuses(run_a, rule), _statuses(run_b, rule)))
    if not any(found[name] for name in found if not name.startswith("only_")):
        raise TrackingError(
            f"runs {run_a} and {run_b} have no sample in common; compare runs on the same data"
        )
    return found | {"p_value": mcnemar_p(len(found["recovered"]), len(found["regressed"]))}


def _statuses(run_id: str, rule: Preset) -> dict[str, Status]:
    """The status of every sample under the last checkpoint of a run."""
    if runs.tags(run_id).get("ilp.kind") == "diagnosis":  # its scores are with its parent
        run_id = runs.parent_of(run_id) or run_id
    if not runs.has(run_id, "scores.parquet"):
        raise TrackingError(
            f"run {run_id} holds no scores; compare diagnosed experiments, or runs of mitigations and controls"
        )
    checkpoints = [c.name for c in runs.read_checkpoints(run_id)]
    names = checkpoints if checkpoints[0] == "base" else ["base", *checkpoints]
    scores = runs.read_table(run_id, "scores.parquet")
    judged = verdict_table(scores, names, rule, _diagnosed(run_id).seed)
    return {v.sample_id: v.status for v in to_rows(judged, Verdict)}


def _diagnosed(run_id: str) -> Experiment:
    """The experiment that a run, or the run of a mitigation, belongs to."""
    found = runs.find_experiment_run("", run_id)
    return runs.read_experiment(None, runs.parent_of(found) or found)
