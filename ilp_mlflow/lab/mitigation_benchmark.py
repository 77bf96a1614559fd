"""What mitigations did to every planted group: each by itself, composed, and as an oracle would."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ilp_mlflow.core import plugin_loader
from ilp_mlflow.core.config import LAB_PREFIX, Experiment
from ilp_mlflow.core.errors import StepFailed
from ilp_mlflow.core.values import Details, Diagnosis, Evidence, Outcome, Report
from ilp_mlflow.diagnosis.causes.data_contradiction import ContradictionDetails
from ilp_mlflow.diagnosis.causes.insufficient_optimization import OptimizationDetails
from ilp_mlflow.diagnosis.wrong_side import THE_OTHERS
from ilp_mlflow.lab import benchmark, data_files
from ilp_mlflow.lab.benchmark import LabRun, by_group, holds, reproduced, share
from ilp_mlflow.lab.data_files import Lab
from ilp_mlflow.lab.rows import CAUSES, Row, paraphrases
from ilp_mlflow.mitigation import search
from ilp_mlflow.mitigation.plans import checked_plan
from ilp_mlflow.mitigation.search import SearchOptions
from ilp_mlflow.mitigation.trial import Baseline
from ilp_mlflow.tracking import runs

LOOK_EVERY = 25
"""Optimizer steps from one look of an adaptive schedule to the next: the stages of a lab are some
hundred steps long."""


@dataclass(frozen=True)
class Reproduced:
    """Shares 0..1 of what a model reproduces."""

    net_recovery: dict[str, float] = field(default_factory=dict)
    """Of each group's samples that were unlearned."""
    held: dict[str, float] = field(default_factory=dict)
    """Of the same samples, those of which it says most paraphrases."""
    rule: float = 0.0
    """Of the rules' people that are in no row."""


def run(experiment: Experiment, source: Path, run_id: str | None = None) -> LabRun:
    """Run the experiment as planted, and say what its mitigations did to every group.

    Raises IlpError, StepFailed.
    """
    lab_run = benchmark.run(experiment, source, run_id)
    lab_run.result["mitigations"] = [
        _grade(name, lab_run) for name in lab_run.experiment.mitigations
    ]
    return lab_run


def run_composed(experiment: Experiment, source: Path) -> LabRun:
    """Run the experiment as planted, then compose its mitigations, also as an oracle would.

    Raises IlpError, and StepFailed when a mitigation fails.
    """
    lab_run = benchmark.run(experiment.model_copy(update={"mitigations": {}}), source)
    with_mitigations, _ = data_files.resolve(experiment)
    lab_run.result["auto"] = _composed(lab_run, with_mitigations)
    return lab_run


def all_mitigations(size: str) -> dict[str, dict[str, Any]]:
    """Every installed mitigation with its default options, and sources of a lab of this size."""
    texts = {
        "source": {"path": f"{LAB_PREFIX}{size}/knowledge.jsonl"},
        "general": {"path": f"{LAB_PREFIX}{size}/general.jsonl"},
    }
    options: dict[str, dict[str, Any]] = {
        "knowledge_augmentation": texts,
        "belief_correction": texts,
        "augment_rare": {"source": {"path": f"{LAB_PREFIX}{size}/spare.jsonl"}},
        "conflict_bucketing": {"which": "all", "every": LOOK_EVERY},
        "dynamic_resampling": {"every": LOOK_EVERY},
    }
    return {name: options.get(name, {}) for name in plugin_loader.usable("mitigation")}


def _grade(name: str, lab_run: LabRun) -> dict[str, Any]:
    """What a mitigation did to every planted group, shares 0..1 net of its control.

    `net_recovery`: of the group's unlearned samples, those that the model says now; `held`: those
    of which it says most paraphrases; `rule`: what it says of the rules' people that are in no row;
    `control_regressed`: of the group `control`.
    """
    outcome = next((o for o in lab_run.report.outcomes if o.mitigation == name), None)
    if outcome is None:
        nothing: dict[str, Any] = {"net_recovery": {}, "held": {}}
        return {"name": name, **nothing, "rule": None, "control_regressed": None}
    after = _reproduced_by(outcome.run_id, lab_run)
    control = _reproduced_by(outcome.control_run_id, lab_run)
    return {
        "name": name,
        "net_recovery": _net(after.net_recovery, control.net_recovery),
        "held": _net(after.held, control.held),
        "rule": after.rule - control.rule,
        "control_regressed": _control_regressed(outcome, lab_run),
        "guard": outcome.guard.model_dump() if outcome.guard else None,
        "seconds": outcome.seconds,
        "tokens": outcome.tokens,
    }


def _net(after: Mapping[str, float], control: Mapping[str, float]) -> dict[str, float]:
    return {group: value - control.get(group, 0.0) for group, value in after.items()}


def _reproduced_by(run_id: str | None, lab_run: LabRun) -> Reproduced:
    """What the model of a mitigation's run, or its control's, reproduces; nothing without a run."""
    if run_id is None:
        return Reproduced()
    report, planted = lab_run.report, lab_run.lab.planted
    unlearned = _ids(report, "unlearned")
    asked = list(planted.samples)
    for row in planted.samples:
        if row.id in unlearned:
            asked += paraphrases(row)
    asked += planted.unseen
    ends = {
        "base": report.checkpoints[0].model_uri,
        "after": runs.read_checkpoints(run_id)[-1].model_uri,
    }
    said = reproduced(asked, ends, lab_run.experiment)
    shares = Reproduced(rule=share(said, planted.unseen))
    for group, rows in by_group(planted.samples).items():
        rows = [row for row in rows if row.id in unlearned]
        if rows:
            shares.net_recovery[group] = share(said, rows)
            shares.held[group] = sum(holds(row, said) for row in rows) / len(rows)
    return shares


def _ids(report: Report, status: str) -> set[str]:
    return {v.sample_id for v in report.verdicts if v.status == status}


def _control_regressed(outcome: Outcome, lab_run: LabRun) -> float:
    """Share 0..1 of the learned rows of the group `control` that regressed."""
    group = {row.id for row in lab_run.lab.planted.samples if row.group == "control"}
    learned = group & _ids(lab_run.report, "learned")
    return len(learned & set(outcome.regressed)) / max(1, len(learned))


def _composed(lab_run: LabRun, experiment: Experiment) -> dict[str, Any]:
    """What `mitigate --plan auto` did, and what it did for an oracle.

    Shares 0..1 of all samples that are unlearned. `first`: the mitigation chosen for each cause,
    those with most samples first; `reached`: by how much the share fell, of that by which it fell
    for the oracle.
    """
    report = lab_run.report
    baseline = search.read_baseline(experiment, report.run_id, runs.read_samples(report.run_id))
    auto = _compose(lab_run, experiment, baseline)
    known = replace(baseline, diagnoses=oracle(report.diagnoses, lab_run.lab))
    best = _compose(lab_run, experiment, known)
    fell, possible = (report.unlearned_rate - one["unlearned"] for one in (auto, best))
    return {
        "unlearned": report.unlearned_rate,
        "auto": auto,
        "oracle": best,
        "reached": fell / possible if possible else None,
    }


def _compose(lab_run: LabRun, experiment: Experiment, baseline: Baseline) -> dict[str, Any]:
    """What the composed mitigations do when the samples have the diagnoses of `baseline`."""
    report, diagnoses = lab_run.report, baseline.diagnoses
    plugins = plugin_loader.configure("mitigation", experiment.mitigations)
    tried = search.try_composed(plugins, baseline, SearchOptions("auto"))
    if not tried.outcomes:
        raise StepFailed("; ".join(tried.failed) or "no mitigation has anything to do", report)
    (outcome,) = tried.outcomes
    plans = {
        name: checked_plan(name, plugins[name], diagnoses, baseline.context)
        for name in outcome.combines
    }
    causes = {d.verdict.sample_id: d.cause for d in diagnoses}
    samples_per_cause = Counter(cause for cause in causes.values() if cause)
    first = dict[str, str | None]()
    for cause in samples_per_cause:
        first[cause] = None
        for name, plan in plans.items():
            if plan and cause in {causes[target] for target in plan.targets}:
                first[cause] = name
                break
    control = {row.id for row in lab_run.lab.planted.samples if row.group == "control"}
    return {
        "unlearned": outcome.unlearned_rate,
        "combines": outcome.combines,
        "groups": dict(samples_per_cause.most_common()),
        "first": first,
        "control_regressed": len(control & set(outcome.regressed)) / len(control),
        "guard": outcome.guard.model_dump() if outcome.guard else None,
        "seconds": outcome.seconds,
    }


def oracle(diagnoses: Sequence[Diagnosis], lab: Lab) -> list[Diagnosis]:
    """The diagnoses that somebody who knows the plant would make of the same samples.

    The ledger's evidence is taken as it is.
    """
    planted = {row.id: row for row in lab.planted.samples if row.group in CAUSES}
    contradicting = dict[Any, list[str]]()
    for row in lab.planted.rows:
        if row.group == "contradicting":
            contradicting.setdefault(row.fact, []).append(row.id)

    def details(row: Row, diagnosis: Diagnosis) -> Details | dict[str, Any]:
        if row.group == ContradictionDetails.cause:
            return ContradictionDetails(wrong=THE_OTHERS, rows=tuple(contradicting[row.fact]))
        if row.group == OptimizationDetails.cause:
            return OptimizationDetails(rarest_word=row.adjective)
        return dict(diagnosis.evidence[row.group].details) if row.group == "not_trained" else {}

    truth = list[Diagnosis]()
    for diagnosis in diagnoses:
        if diagnosis.verdict.sample_id not in planted:
            truth.append(Diagnosis(verdict=diagnosis.verdict))
            continue
        row = planted[diagnosis.verdict.sample_id]
        evidence = Evidence(
            cause=row.group, strength=1, reason="planted", details=details(row, diagnosis)
        )
        truth.append(
            Diagnosis(
                verdict=diagnosis.verdict,
                cause=row.group,
                strength=1,
                evidence={row.group: evidence},
            )
        )
    return truth
