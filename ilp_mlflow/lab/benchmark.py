"""One lab from its base to its verdicts, and what happened to every planted group."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ilp_mlflow import pipeline
from ilp_mlflow.core.config import Experiment
from ilp_mlflow.core.values import Checkpoint, Diagnosis, Report
from ilp_mlflow.data.samples import sample_from_record
from ilp_mlflow.diagnosis.attribution import UNEXPLAINED
from ilp_mlflow.diagnosis.diagnose import diagnose_run
from ilp_mlflow.lab import data_files
from ilp_mlflow.lab.data_files import Lab
from ilp_mlflow.lab.leak_check import surface_check
from ilp_mlflow.lab.rows import CAUSES, GROUPS, Row, paraphrases, record
from ilp_mlflow.scoring.checkpoints import score_checkpoints
from ilp_mlflow.scoring.verdicts import Preset, verdict_table
from ilp_mlflow.tracking import runs

RULE_GROUP = "insufficient_optimization"
"""The group whose rule is also asked about people who are in no row."""
PRESETS: tuple[Preset, ...] = ("default", "paper")
"""The rules whose verdicts are compared with the truth."""


@dataclass(frozen=True)
class LabRun:
    """A lab that was run."""

    experiment: Experiment
    """With paths of real files in place of the lab's locations."""
    lab: Lab
    """Its world, its base model and its rows."""
    report: Report
    """What the tool found."""
    result: dict[str, Any]
    """What became of every group, as `ilp lab --json` prints it; shares 0..1."""


def run(experiment: Experiment, source: Path, run_id: str | None = None) -> LabRun:
    """Run the experiment as planted.

    `experiment` has locations `lab:SIZE/FILE`. With `run_id` that run goes on. Raises IlpError,
    StepFailed.
    """
    started = time.perf_counter()
    resolved, lab = data_files.resolve(experiment)
    prepared = time.perf_counter()
    report = pipeline.run(resolved, source, run_id)
    done = time.perf_counter()
    samples = lab.planted.samples
    ends = first_and_last(report.checkpoints)
    learned = reproduced(samples, ends, resolved)
    paraphrase_said = reproduced([p for row in samples for p in paraphrases(row)], ends, resolved)
    rule_said = reproduced(lab.planted.unseen, ends, resolved)
    groups = dict[str, dict[str, float]]()
    for group, rows in by_group(samples).items():
        groups[group] = {
            "n": len(rows),
            "learned": share(learned, rows),
            "paraphrased": share(paraphrase_said, [p for row in rows for p in paraphrases(row)]),
        }
    groups[RULE_GROUP]["rule"] = share(rule_said, lab.planted.unseen)
    detected = {
        preset: detection(report, resolved, lab, paraphrase_said, preset) for preset in PRESETS
    }
    result = {
        "seed": experiment.seed,
        "samples": len(report.verdicts),
        "groups": groups,
        "surface": surface_check(samples, lab.planted.rows, experiment.seed),
        "detection": detected,
        "attribution": attribution(report, resolved, lab),
        "seconds": {
            "base": prepared - started,
            "experiment": done - prepared,
            "groups": time.perf_counter() - done,
        },
    }
    return LabRun(resolved, lab, report, result)


def first_and_last(checkpoints: Sequence[Checkpoint]) -> dict[str, str]:
    """Locations of the base and of the last checkpoint, by name."""
    return {c.name: c.model_uri for c in (checkpoints[0], checkpoints[-1])}


def reproduced(
    rows: Sequence[Row], checkpoints: Mapping[str, str], experiment: Experiment
) -> dict[str, bool]:
    """Whether the last checkpoint says each row's city and stops, greedily, by row id.

    `checkpoints` are locations by name, the base first.
    """
    samples = [
        sample_from_record(record(row, ""), row.id.partition("-")[0], number, row.id)
        for number, row in enumerate(rows, 1)
    ]
    no_options = {sample.id: () for sample in samples}
    scores = score_checkpoints(
        samples, no_options, checkpoints, experiment.scoring, experiment.seed
    )
    last = list(checkpoints)[-1]
    return {
        score["sample_id"]: score["greedy"]
        for score in scores.to_pylist()
        if score["checkpoint"] == last
    }


def by_group(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by group, in the order of GROUPS."""
    rows_by_group: dict[str, list[Row]] = {group: [] for group in GROUPS}
    for row in rows:
        rows_by_group[row.group].append(row)
    return rows_by_group


def share(learned: Mapping[str, bool], rows: Sequence[Row]) -> float:
    """Share 0..1 of `rows` that are `learned` (by row id)."""
    return sum(learned[row.id] for row in rows) / len(rows)


def holds(row: Row, paraphrase_said: Mapping[str, bool]) -> bool:
    """Whether most paraphrases of a row are said (by id)."""
    asked = paraphrases(row)
    return 2 * sum(paraphrase_said[p.id] for p in asked) > len(asked)


def detection(
    report: Report,
    experiment: Experiment,
    lab: Lab,
    paraphrase_said: Mapping[str, bool],
    preset: Preset,
) -> dict[str, float | None]:
    """Precision and recall 0..1 of a preset's verdicts on the samples that the model does not know.

    A sample is known when most of its paraphrases are said; `uncertain` counts as not detected.
    """
    scores = runs.read_table(report.run_id, "scores.parquet")
    checkpoints = [c.name for c in report.checkpoints]
    verdicts = verdict_table(scores, checkpoints, preset, experiment.seed)
    ids, statuses = verdicts["sample_id"].to_pylist(), verdicts["status"].to_pylist()
    status = dict(zip(ids, statuses, strict=True))
    detected = {row.id for row in lab.planted.samples if status[row.id] == "unlearned"}
    unknown = {row.id for row in lab.planted.samples if not holds(row, paraphrase_said)}
    hits = len(detected & unknown)
    return {
        "precision": hits / len(detected) if detected else None,
        "recall": hits / len(unknown) if unknown else None,
    }


def attribution(report: Report, experiment: Experiment, lab: Lab) -> dict[str, Any]:
    """How the unlearned samples of every group are explained.

    `default`: by the experiment's diagnostics, which are given the rows' probes; `without_probes`:
    by the same without them; `paper`: by the study's own tests.
    """
    planted = {row.id: row.group for row in lab.planted.samples}
    bare = [s.model_copy(update={"probes": ()}) for s in runs.read_samples(report.run_id)]
    without_probes = diagnose_run(experiment, report.run_id, bare)
    paper = diagnose_run(experiment, report.run_id, bare, "paper")
    return {
        "default": confusion(planted, report.diagnoses),
        "without_probes": confusion(planted, without_probes),
        "paper": confusion(planted, paper),
    }


def confusion(planted: Mapping[str, str], diagnoses: Sequence[Diagnosis]) -> dict[str, Any]:
    """Named causes against planted groups (`planted`, by sample id), of planted samples only.

    `confusion`: counts of causes (or `unexplained`) by group; `per_cause`: F1 0..1; `macro_f1`:
    their mean. Samples of the group `control` count as mistakes of the cause they are blamed on;
    `control_blamed` is their share 0..1 of the group. `beside` are the counts of the other rows,
    which are there for the planted ones: nothing is known of them. `sure_half` is the share 0..1
    that is right of those at or above the median strength.
    """
    counts: dict[str, Counter[str]] = {group: Counter() for group in GROUPS}
    beside = Counter[str]()
    named = list[tuple[float, bool]]()  # strength, and whether the cause is the planted one
    for diagnosis in diagnoses:
        cause = diagnosis.cause or UNEXPLAINED
        group = planted.get(diagnosis.verdict.sample_id)
        if group is None:
            beside[cause] += 1
            continue
        counts[group][cause] += 1
        if diagnosis.cause:
            named.append((diagnosis.strength or 0.0, group == diagnosis.cause))
    f1 = {cause: _f1(cause, counts) for cause in CAUSES}
    control = sum(group == "control" for group in planted.values())
    blamed = counts["control"].total() - counts["control"][UNEXPLAINED]
    return {
        "macro_f1": sum(f1.values()) / len(f1),
        "per_cause": f1,
        "confusion": {group: dict(+row) for group, row in counts.items()},
        "beside": dict(beside),
        "control_blamed": blamed / control if control else 0.0,
        "sure_half": _right_among_the_surest(named),
    }


def _f1(cause: str, counts: Mapping[str, Counter[str]]) -> float:
    """2 hits / (samples blamed on the cause + samples of its group), 0 where there are neither."""
    blamed = sum(row[cause] for row in counts.values())
    planted = counts[cause].total()
    return 2 * counts[cause][cause] / (blamed + planted) if blamed + planted else 0.0


def _right_among_the_surest(named: Sequence[tuple[float, bool]]) -> float | None:
    """Share 0..1 that is right of those at or above the median strength; None where none is."""
    if not named:
        return None
    ranked = sorted(named, reverse=True)
    median = ranked[len(ranked) // 2][0]
    surest = [right for strength, right in ranked if strength >= median]
    return sum(surest) / len(surest)
