"""One lab from its base to its verdicts, and what happened to every planted group."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ilp_mlflow import pipeline
from ilp_mlflow.core.config import Experiment, ScoringConfig
from ilp_mlflow.core.interfaces import Diagnostic
from ilp_mlflow.core.values import Checkpoint, Diagnosis, Report, Sample
from ilp_mlflow.data.samples import sample_from_record
from ilp_mlflow.diagnosis.attribution import UNEXPLAINED
from ilp_mlflow.diagnosis.diagnose import diagnose_run
from ilp_mlflow.diagnosis.installed_causes import installed_causes
from ilp_mlflow.lab import data_files
from ilp_mlflow.lab.data_files import AnyLab
from ilp_mlflow.lab.leak_check import surface_check
from ilp_mlflow.lab.rows import CAUSES, GROUPS, PlantedRow
from ilp_mlflow.scoring.checkpoints import score_checkpoints
from ilp_mlflow.scoring.verdicts.judgements import judge, read_judges
from ilp_mlflow.scoring.verdicts.timeline import verdict_table
from ilp_mlflow.tracking import runs

RULE_GROUP = "insufficient_optimization"
"""The group whose rule is also asked about people who are in no row."""
PRESETS: tuple[Literal["default", "paper"], ...] = ("default", "paper")
"""The rules whose verdicts are compared with the truth."""


@dataclass(frozen=True)
class LabRun:
    """A lab that was run."""

    experiment: Experiment
    """With paths of real files in place of the lab's locations."""
    lab: AnyLab
    """Its rows, and what they were planted in: a world of its own, or a pretrained base."""
    report: Report
    """What the tool found."""
    result: dict[str, Any]
    """What became of every group, as `ilp lab --json` prints it; shares 0..1."""


@dataclass(frozen=True)
class Replies:
    """Which questions the last checkpoint answers with the label and stops, by row id."""

    samples: dict[str, bool]
    """The planted samples."""
    paraphrases: dict[str, bool]
    """All of their paraphrases."""
    rules: dict[str, bool]
    """The rules' questions about people who are in no row."""


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
    replies = _ask_last_checkpoint(report, resolved, lab)
    result: dict[str, Any] = {
        "seed": experiment.seed,
        "samples": len(report.verdicts),
        "groups": _shares_by_group(lab, replies),
        "surface": surface_check(lab.planted.samples, lab.planted.rows, experiment.seed),
        "detection": {},
        "attribution": attribution(report, resolved, lab),
    }
    for preset in PRESETS:
        result["detection"][preset] = detection(report, resolved, lab, replies.paraphrases, preset)
    # last, since `groups` is the time that all of the above took
    result["seconds"] = {
        "base": prepared - started,
        "experiment": done - prepared,
        "groups": time.perf_counter() - done,
    }
    return LabRun(resolved, lab, report, result)


def _ask_last_checkpoint(report: Report, experiment: Experiment, lab: AnyLab) -> Replies:
    """Ask for all samples, in their own words and in others, and for the rules of unseen people."""
    # one call each: which rows share a batch may change the last digits of a score
    locations = first_and_last(report.checkpoints)
    samples = lab.planted.samples
    return Replies(
        samples=reproduced(samples, locations, experiment),
        paraphrases=reproduced(all_paraphrases(samples), locations, experiment),
        rules=reproduced(lab.planted.unseen, locations, experiment),
    )


def _shares_by_group(lab: AnyLab, replies: Replies) -> dict[str, dict[str, float]]:
    """Each group's number of samples, and shares 0..1 said in their own and in other words."""
    shares = dict[str, dict[str, float]]()
    for group, rows in by_group(lab.planted.samples).items():
        shares[group] = {
            "n": len(rows),
            "learned": share(replies.samples, rows),
            "paraphrased": share(replies.paraphrases, all_paraphrases(rows)),
        }
    if lab.planted.unseen:
        shares[RULE_GROUP]["rule"] = share(replies.rules, lab.planted.unseen)
    return shares


def all_paraphrases(rows: Iterable[PlantedRow]) -> list[PlantedRow]:
    """Every paraphrase of every row."""
    reworded = list[PlantedRow]()
    for row in rows:
        reworded += row.paraphrases()
    return reworded


def first_and_last(checkpoints: Sequence[Checkpoint]) -> dict[str, str]:
    """Locations of the base and of the last checkpoint, by name."""
    first, last = checkpoints[0], checkpoints[-1]
    return {first.name: first.model_uri, last.name: last.model_uri}


def reproduced(
    rows: Sequence[PlantedRow], checkpoints: Mapping[str, str], experiment: Experiment
) -> dict[str, bool]:
    """Whether the last checkpoint says each row's city and stops, greedily, by row id.

    `checkpoints` are locations by name, the base first.
    """
    if not rows:
        return {}
    samples = list[Sample]()
    for number, row in enumerate(rows, 1):
        # an id is STAGE-NUMBER; without a stage all rows are asked alike, as plain text
        stage, _, _ = row.id.partition("-")
        samples.append(sample_from_record(row.record(""), stage, number, row.id))
    # no wrong options: the verdict needs them, greedy reproduction does not
    no_options = {sample.id: () for sample in samples}
    scores = score_checkpoints(
        samples, no_options, checkpoints, experiment.scoring, experiment.seed
    )
    *_, last = checkpoints
    greedy_by_id = dict[str, bool]()
    for score in scores.to_pylist():
        if score["checkpoint"] == last:
            greedy_by_id[score["sample_id"]] = score["greedy"]
    return greedy_by_id


def by_group(rows: Iterable[PlantedRow]) -> dict[str, list[PlantedRow]]:
    """Rows by group, in the order of GROUPS."""
    rows_by_group: dict[str, list[PlantedRow]] = {group: [] for group in GROUPS}
    for row in rows:
        rows_by_group[row.group].append(row)
    return rows_by_group


def share(learned: Mapping[str, bool], rows: Sequence[PlantedRow]) -> float:
    """Share 0..1 of `rows` that are `learned` (by row id); 0 without rows."""
    return sum(learned[row.id] for row in rows) / len(rows) if rows else 0.0


def holds(row: PlantedRow, paraphrase_said: Mapping[str, bool]) -> bool:
    """Whether most paraphrases of a row are said (by id)."""
    # more than half of them: to have learned one other wording is no knowledge
    return share(paraphrase_said, row.paraphrases()) > 0.5


def detection(
    report: Report,
    experiment: Experiment,
    lab: AnyLab,
    paraphrase_said: Mapping[str, bool],
    preset: Literal["default", "paper"],
) -> dict[str, float | None]:
    """Precision and recall 0..1 of a preset's verdicts on the samples that the model does not know.

    A sample is known when most of its paraphrases are said; `uncertain` counts as not detected.
    """
    scores = runs.read_table(report.run_id, "scores.parquet")
    checkpoints = [c.name for c in report.checkpoints]
    judges = read_judges(ScoringConfig(preset=preset))
    judgements = judge(scores, checkpoints, judges, experiment.seed)
    verdicts = verdict_table(judgements, checkpoints)
    status_by_id = dict[str, str]()
    for verdict in verdicts.to_pylist():
        status_by_id[verdict["sample_id"]] = verdict["status"]
    detected = unknown = hits = 0
    for row in lab.planted.samples:
        is_detected = status_by_id[row.id] == "unlearned"
        is_unknown = not holds(row, paraphrase_said)
        detected += is_detected
        unknown += is_unknown
        hits += is_detected and is_unknown
    return {
        "precision": hits / detected if detected else None,
        "recall": hits / unknown if unknown else None,
    }


def attribution(report: Report, experiment: Experiment, lab: AnyLab) -> dict[str, Any]:
    """How the unlearned samples of every group are explained.

    `default`: by the experiment's diagnostics, which are given the rows' probes; `without_probes`:
    by the same without them; `paper`: by the study's own tests.
    """
    group_by_id = {row.id: row.group for row in lab.planted.samples}
    # a user's rows have no probes, and the study knows none
    samples = runs.read_samples(report.run_id)
    bare = [sample.model_copy(update={"probes": ()}) for sample in samples]
    without_probes: Sequence[Diagnosis] = report.diagnoses
    # where no row has any, that is what was diagnosed
    if any(sample.probes for sample in samples):
        without_probes = diagnose_run(experiment, report.run_id, bare)
    paper = diagnose_run(experiment, report.run_id, bare, "paper")
    return {
        "default": confusion(group_by_id, report.diagnoses),
        "without_probes": confusion(group_by_id, without_probes),
        "paper": confusion(group_by_id, paper),
    }


def confusion(planted: Mapping[str, str], diagnoses: Sequence[Diagnosis]) -> dict[str, Any]:
    """Named causes against planted groups (`planted`, by sample id), of planted samples only.

    `confusion`: counts of causes (or `unexplained`) by group; `per_cause`: F1 0..1; `macro_f1`:
    their mean. Samples of the group `control` count as mistakes of the cause they are blamed on;
    `control_blamed` is their share 0..1 of the group. `beside` are the counts of the other rows,
    which are there for the planted ones: nothing is known of them. `sure_half` is the share 0..1
    that is right of those at or above the median strength. `evidence` has, for every unlearned
    planted sample, its group, the cause that is named, and what there is for each cause.
    """
    counts: dict[str, Counter[str]] = {group: Counter() for group in GROUPS}
    beside = Counter[str]()
    # of each named cause its strength, and whether it is the planted one
    named_causes = list[tuple[float, bool]]()
    for diagnosis in diagnoses:
        cause = diagnosis.cause or UNEXPLAINED
        group = planted.get(diagnosis.verdict.sample_id)
        if group is None:
            beside[cause] += 1
            continue
        counts[group][cause] += 1
        if diagnosis.cause:
            named_causes.append((diagnosis.strength or 0.0, group == diagnosis.cause))
    f1 = {cause: _f1(cause, counts) for cause in CAUSES}
    control = list(planted.values()).count("control")
    # only unlearned samples are diagnosed: the rest of the control is learned, and not blamed
    blamed = counts["control"].total() - counts["control"][UNEXPLAINED]
    return {
        "macro_f1": sum(f1.values()) / len(f1),
        "per_cause": f1,
        "confusion": {group: dict(causes) for group, causes in counts.items()},
        "beside": dict(beside),
        "control_blamed": blamed / control if control else 0.0,
        "sure_half": _right_among_the_surest(named_causes),
        "evidence": _evidence(planted, diagnoses),
    }


def _evidence(planted: Mapping[str, str], diagnoses: Sequence[Diagnosis]) -> list[dict[str, Any]]:
    """Of every unlearned planted sample its group, the named cause and the evidence for each cause.

    `evidence` has, by cause in their order, the signal and the strength, 0..1 both.
    """
    order = {cause.name: cause.order for cause in installed_causes()}
    rows = []
    for diagnosis in diagnoses:
        group = planted.get(diagnosis.verdict.sample_id)
        if group is None:
            continue
        said: dict[str, tuple[float, float]] = {}
        for evidence in diagnosis.evidence.values():
            signal = evidence.strength if evidence.signal is None else evidence.signal
            said[evidence.cause] = max(
                said.get(evidence.cause, (0, 0)), (signal, evidence.strength)
            )
        causes = sorted(said, key=lambda cause: order.get(cause, Diagnostic.order))
        in_order = {cause: said[cause] for cause in causes}
        rows.append({"group": group, "cause": diagnosis.cause, "evidence": in_order})
    return rows


def _f1(cause: str, counts: Mapping[str, Counter[str]]) -> float:
    """2 hits / (samples blamed on the cause + samples of its group), 0 where there are neither."""
    # harmonic mean of precision (hits / blamed) and recall (hits / planted), with one division
    blamed = sum(causes[cause] for causes in counts.values())
    planted = counts[cause].total()
    return 2 * counts[cause][cause] / (blamed + planted) if blamed + planted else 0.0


def _right_among_the_surest(named_causes: Sequence[tuple[float, bool]]) -> float | None:
    """Share 0..1 that is right of those at or above the median strength; None where none is."""
    if not named_causes:
        return None
    ranked = sorted(named_causes, reverse=True)
    median = ranked[len(ranked) // 2][0]
    # by strength, not by rank: of equally sure ones either all count or none does
    surest = [right for strength, right in ranked if strength >= median]
    return sum(surest) / len(surest)
