"""Causes tried out: is a sample learned in a small training in which one cause is removed?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ilp_mlflow.core.config import Experiment
from ilp_mlflow.core.interfaces import Context
from ilp_mlflow.core.values import Diagnosis, Status, as_json
from ilp_mlflow.mitigation.confirm.arms import ArmResult, Cost, estimate_cost, train_arms
from ilp_mlflow.mitigation.confirm.bench import Bench, choose_tested, plan_benches
from ilp_mlflow.mitigation.confirm.removals import CONTROL, Arm, plan_arms
from ilp_mlflow.mitigation.confirm.verdict import MIN_CHECKED, Trained, confirm_diagnosis
from ilp_mlflow.tracking import runs

FILE = "confirmation.json"
"""Artifact with what every small training taught."""


@dataclass(frozen=True)
class ConfirmOptions:
    """What is asked for."""

    samples: int
    """Samples of each cause that are tested, at most."""
    agrees: Callable[[Cost], bool]
    """Told the cost before anything is trained, says whether to go on."""


def confirm_causes(
    experiment: Experiment,
    run_id: str,
    context: Context,
    diagnoses: Sequence[Diagnosis],
    options: ConfirmOptions,
) -> list[Diagnosis] | None:
    """The diagnoses with what small trainings without one cause say of some of them.

    Each starts from the checkpoint before the stage that failed, and nothing of it is kept but what
    it taught. None where there is nothing to test, or the cost is not agreed to. Raises IlpError.
    """
    arms = []
    for bench in plan_benches(choose_tested(diagnoses, options.samples), context):
        arms += plan_arms(bench)
    if not arms or not options.agrees(estimate_cost(arms, context.checkpoints)):
        return None
    wrong = {}
    for row in runs.read_table(run_id, "options.parquet").to_pylist():
        wrong[row["sample_id"]] = row["wrong"]
    results = train_arms(arms, wrong, experiment)
    runs.write(run_id, FILE, as_json(results))
    trained = read_results(arms, results)
    confirmed = []
    for diagnosis in diagnoses:
        found = trained.get(diagnosis.verdict.sample_id)
        confirmed.append(confirm_diagnosis(diagnosis, found) if found else diagnosis)
    return confirmed


def read_results(arms: Sequence[Arm], results: Sequence[ArmResult]) -> dict[str, Trained]:
    """What became of every tested sample, by id; `results` are those of `arms`, in their order."""
    of_bench: dict[str, list[tuple[Arm, ArmResult]]] = {}
    for arm, result in zip(arms, results, strict=True):
        of_bench.setdefault(result.stage, []).append((arm, result))
    trained = {}
    for pairs in of_bench.values():
        bench = pairs[0][0].bench
        for sample in bench.tested:
            trained[sample.id] = _read_sample(sample.id, bench, pairs)
    return trained


def _read_sample(sample_id: str, bench: Bench, pairs: Sequence[tuple[Arm, ArmResult]]) -> Trained:
    control: Status = "unscored"
    removed: dict[str, Status] = {}
    placebos: list[Status] = []
    failed = []
    for arm, result in pairs:
        status = result.statuses[sample_id]
        if result.taught < MIN_CHECKED:
            failed.append(arm.name)
        if arm.name == CONTROL:
            control = status
        elif sample_id in arm.removed_for:
            removed[arm.name] = status
        elif sample_id not in arm.left_out and result.taught >= MIN_CHECKED:
            placebos.append(status)
    return Trained(control, removed, tuple(placebos), tuple(failed))
