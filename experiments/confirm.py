"""How often small trainings name the planted cause of a lab, and whether they mend wrong causes.

`ilp lab --seed S` first; then `python experiments/confirm.py RUN_ID [N] [--no-probes] [--real SIZE]`.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Sequence

from ilp_mlflow.core import config
from ilp_mlflow.core.values import Diagnosis
from ilp_mlflow.diagnosis.context import build_context
from ilp_mlflow.lab import data_files
from ilp_mlflow.lab.benchmark import confusion
from ilp_mlflow.lab.real import data_files as real_files
from ilp_mlflow.lab.rows import CAUSES, Planted
from ilp_mlflow.mitigation.confirm.arms import ArmResult, estimate_cost, train_arms
from ilp_mlflow.mitigation.confirm.bench import choose_tested, plan_benches
from ilp_mlflow.mitigation.confirm.confirm import read_results
from ilp_mlflow.mitigation.confirm.removals import plan_arms
from ilp_mlflow.mitigation.confirm.verdict import confirm_diagnosis
from ilp_mlflow.tracking import connection, runs


def main() -> None:
    """Try out the causes of one lab run and print how what is said stands to what was planted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_id")
    parser.add_argument("samples", type=int, nargs="?", default=1000)
    parser.add_argument("--no-probes", action="store_true", help="rows' own prompts only")
    parser.add_argument("--real", default="", metavar="SIZE", help="a run of the real lab: `real`")
    options = parser.parse_args()
    connection.use_store(config.TrackingConfig())
    experiment = runs.read_experiment(None, options.run_id)
    samples = runs.read_samples(options.run_id)
    if options.no_probes:
        samples = [sample.model_copy(update={"probes": ()}) for sample in samples]
    checkpoints = runs.read_checkpoints(options.run_id)
    context = build_context(experiment, samples, checkpoints, options.run_id)
    diagnoses = []
    for record in json.loads(runs.read(options.run_id, "diagnoses.json")):
        diagnoses.append(Diagnosis.model_validate(record))
    planted: Planted
    if options.real:
        planted = real_files.prepare(options.real, experiment.seed, experiment.model).planted
    else:
        planted = data_files.prepare("full", experiment.seed).planted
    group_by_id = {row.id: row.group for row in planted.samples}
    diagnoses = [d for d in diagnoses if d.verdict.sample_id in group_by_id]
    arms = []
    for bench in plan_benches(choose_tested(diagnoses, options.samples), context):
        arms += plan_arms(bench)
    print(estimate_cost(arms, checkpoints).sentence)
    wrong_options = {}
    for row in runs.read_table(options.run_id, "options.parquet").to_pylist():
        wrong_options[row["sample_id"]] = row["wrong"]
    started = time.perf_counter()
    results = train_arms(arms, wrong_options, experiment)
    print(f"took {time.perf_counter() - started:.0f} s")
    for result in results:
        print(brief(result))
    trained = read_results(arms, results)
    tested = [d for d in diagnoses if d.verdict.sample_id in trained]
    for title, before in (
        ("causes by the evidence", tested),
        ("wrong causes", with_wrong_causes(tested, group_by_id)),
    ):
        print(f"\n{title}")
        after = [confirm_diagnosis(d, trained[d.verdict.sample_id]) for d in before]
        tell(group_by_id, before, after)


def brief(result: ArmResult) -> str:
    """What a small training taught of its check rows and of the tested samples."""
    learned = list(result.statuses.values()).count("learned")
    return (
        f"  {result.stage} {result.name}: {result.steps} steps, check rows {result.taught:.2f}, "
        f"tested {learned} of {len(result.statuses)}"
    )


def with_wrong_causes(
    diagnoses: Sequence[Diagnosis], group_by_id: dict[str, str]
) -> list[Diagnosis]:
    """Each with a cause drawn from those that were not planted, its evidence as it is."""
    rng = random.Random(0)
    wrong = []
    for diagnosis in diagnoses:
        group = group_by_id.get(diagnosis.verdict.sample_id)
        others = [cause for cause in CAUSES if cause != group]
        update = {"cause": rng.choice(others), "strength": 0.6}
        wrong.append(diagnosis.model_copy(update=update))
    return wrong


def tell(group_by_id, before: Sequence[Diagnosis], after: Sequence[Diagnosis]) -> None:
    """Print both confusions, what every removal taught by group, and the verdicts by group."""
    for name, diagnoses in (("evidence", before), ("confirmed", after)):
        result = confusion(group_by_id, diagnoses)
        as_one = confusion(
            {i: _as_one(g) or "" for i, g in group_by_id.items()},
            [d.model_copy(update={"cause": _as_one(d.cause)}) for d in diagnoses],
        )
        f1 = [v for cause, v in as_one["per_cause"].items() if cause != "knowledge_conflict"]
        print(name, "macro-F1", round(result["macro_f1"], 3), end="; ")
        print("missing and conflict as one", round(sum(f1) / len(f1), 3))
        for group, counts in result["confusion"].items():
            print("   ", group, counts)
    cells: dict[str, Counter] = {}
    verdicts: dict[str, Counter] = {}
    right: dict[str, Counter] = {}
    for diagnosis in after:
        group = group_by_id[diagnosis.verdict.sample_id]
        confirmation = diagnosis.confirmation
        if confirmation is None:
            continue
        cells.setdefault(group, Counter())
        for removal in confirmation.tried:
            cells[group][f"{removal} of"] += 1
            cells[group][removal] += removal in confirmation.learned_without
        verdicts.setdefault(group, Counter())[confirmation.verdict] += 1
        is_right = _as_one(diagnosis.cause) == _as_one(group)
        right.setdefault(confirmation.verdict, Counter())[is_right] += 1
        if confirmation.verdict == "undecided":
            verdicts[group][confirmation.reason[:80]] += 1
    for group, counts in cells.items():
        print(group, dict(counts))
        print("   ", dict(verdicts[group]))
    print({verdict: dict(counts) for verdict, counts in right.items()})


def _as_one(cause: str | None) -> str | None:
    return "missing_knowledge" if cause == "knowledge_conflict" else cause


if __name__ == "__main__":
    main()
