"""Two runs side by side, sample by sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ilp_mlflow.core.config import Experiment
from ilp_mlflow.core.errors import TrackingError
from ilp_mlflow.core.values import Status, Verdict, to_rows
from ilp_mlflow.mitigation.statistics import mcnemar_p
from ilp_mlflow.scoring.verdicts import Preset, verdict_table
from ilp_mlflow.tracking import runs

IN_BOTH_RUNS = ("recovered", "regressed", "still", "kept", "flickering", "unscored")
"""What can become of a sample from one run to another, in the order it is shown."""
IN_ONE_RUN = ("only_before", "only_after")
"""The same of a sample that only one of the two runs has."""
CHANGES: Mapping[tuple[Status, Status], str] = {
    ("unlearned", "learned"): "recovered",
    ("learned", "unlearned"): "regressed",
    ("unlearned", "unlearned"): "still",
    ("learned", "learned"): "kept",
}
"""What became of a sample, by its statuses before and after, where both are firm."""


def compare_runs(run_a: str, run_b: str) -> dict[str, Any]:
    """What became of every sample from one diagnosed run, or run of a mitigation, to another.

    Both are judged by the rule of the first. Sample ids by the names of `transitions`, and
    `p_value` of the exact McNemar test over recovered and regressed samples. Raises TrackingError
    when a run is unknown or holds no scores, or the two share no sample.
    """
    rule = _experiment_of(run_a).scoring.preset
    ids = transitions(_read_statuses(run_a, rule), _read_statuses(run_b, rule))
    if not any(ids[name] for name in IN_BOTH_RUNS):
        raise TrackingError(
            f"runs {run_a} and {run_b} have no sample in common; compare runs on the same data"
        )
    return {**ids, "p_value": mcnemar_p(len(ids["recovered"]), len(ids["regressed"]))}


def transitions(before: Mapping[str, Status], after: Mapping[str, Status]) -> dict[str, list[str]]:
    """Sample ids by what became of them from the statuses `before` to those `after`.

    `recovered`, `regressed`, `still` (unlearned in both), `kept` (learned in both), `flickering`
    (uncertain on one side or both) and `unscored` (likewise); samples that only one side has are
    `only_before` or `only_after`.
    """
    ids: dict[str, list[str]] = {name: [] for name in (*IN_BOTH_RUNS, *IN_ONE_RUN)}
    for sample_id in dict.fromkeys([*before, *after]):
        if sample_id not in after:
            name = "only_before"
        elif sample_id not in before:
            name = "only_after"
        else:
            name = _change(before[sample_id], after[sample_id])
        ids[name].append(sample_id)
    return ids


def _change(before: Status, after: Status) -> str:
    """What became of a sample that both sides have."""
    # a sample without a score on one side tells less than an uncertain one
    if "unscored" in (before, after):
        return "unscored"
    return CHANGES.get((before, after), "flickering")


def _read_statuses(run_id: str, rule: Preset) -> dict[str, Status]:
    """The status of every sample under the last checkpoint of a run, by id."""
    # the run of a diagnosis leaves its scores with its parent
    if runs.tags(run_id).get("ilp.kind") == "diagnosis":
        run_id = runs.parent_of(run_id) or run_id
    if not runs.has(run_id, "scores.parquet"):
        raise TrackingError(
            f"run {run_id} holds no scores; "
            "compare diagnosed experiments, or runs of mitigations and controls"
        )
    names = [checkpoint.name for checkpoint in runs.read_checkpoints(run_id)]
    # the run of a mitigation lists only what it trained, but scores the base, too
    if names[0] != "base":
        names.insert(0, "base")
    scores = runs.read_table(run_id, "scores.parquet")
    verdicts = verdict_table(scores, names, rule, _experiment_of(run_id).seed)
    return {verdict.sample_id: verdict.status for verdict in to_rows(verdicts, Verdict)}


def _experiment_of(run_id: str) -> Experiment:
    """The experiment that a run, or the run of a mitigation, belongs to."""
    experiment_run = runs.find_experiment_run("", run_id)
    return runs.read_experiment(None, runs.parent_of(experiment_run) or experiment_run)
