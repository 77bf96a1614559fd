"""What mitigations did to every planted group: each by itself, composed, and as an oracle would."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from ilp_mlflow.core import plugin_loader
from ilp_mlflow.core.config import LAB_PREFIX, Experiment
from ilp_mlflow.core.errors import StepFailed
from ilp_mlflow.core.interfaces import Mitigation
from ilp_mlflow.core.values import Details, Diagnosis, Evidence, Outcome, Report
from ilp_mlflow.diagnosis.causes.data_contradiction import ContradictionDetails
from ilp_mlflow.diagnosis.causes.insufficient_optimization import OptimizationDetails
from ilp_mlflow.diagnosis.contradictions.wrong_side import THE_OTHERS
from ilp_mlflow.lab import benchmark, data_files
from ilp_mlflow.lab.benchmark import (
    LabRun,
    all_paraphrases,
    by_group,
    holds,
    reproduced,
    share,
)
from ilp_mlflow.lab.data_files import AnyLab, Lab
from ilp_mlflow.lab.rows import CAUSES, Row
from ilp_mlflow.lab.world import Fact
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
    grades = [_grade(name, lab_run) for name in lab_run.experiment.mitigations]
    lab_run.result["mitigations"] = grades
    return lab_run


def run_composed(experiment: Experiment, source: Path) -> LabRun:
    """Run the experiment as planted, then compose its mitigations, also as an oracle would.

    Raises IlpError, and StepFailed when a mitigation fails.
    """
    # a run without mitigations first: the composition needs its diagnoses, and tries them itself
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
    outcomes = {outcome.mitigation: outcome for outcome in lab_run.report.outcomes}
    # one that had nothing to do has no outcome
    if name not in outcomes:
        return {
            "name": name,
            "net_recovery": {},
            "held": {},
            "rule": None,
            "control_regressed": None,
        }
    outcome = outcomes[name]
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
    """Shares less those of the control, a run that trains as long without the mitigation's idea.

    Nothing is taken off where there is no control.
    """
    return {group: value - control.get(group, 0.0) for group, value in after.items()}


def _reproduced_by(run_id: str | None, lab_run: LabRun) -> Reproduced:
    """What the model of a mitigation's run, or its control's, reproduces; nothing without a run."""
    if run_id is None:
        return Reproduced()
    report, planted = lab_run.report, lab_run.lab.planted
    unlearned_ids = _ids(report, "unlearned")
    unlearned_rows = [row for row in planted.samples if row.id in unlearned_ids]
    # all samples, although only the unlearned ones count: the batches are those of every mitigation
    asked = [*planted.samples, *all_paraphrases(unlearned_rows), *planted.unseen]
    locations = {
        "base": report.checkpoints[0].model_uri,
        "after": runs.read_checkpoints(run_id)[-1].model_uri,
    }
    is_said = reproduced(asked, locations, lab_run.experiment)
    shares = Reproduced(rule=share(is_said, planted.unseen))
    for group, rows in by_group(unlearned_rows).items():
        # a group that was learned has nothing to recover, which is not a share of 0
        if rows:
            shares.net_recovery[group] = share(is_said, rows)
            shares.held[group] = sum(holds(row, is_said) for row in rows) / len(rows)
    return shares


def _ids(report: Report, status: str) -> set[str]:
    """Samples of a status before any mitigation."""
    return {verdict.sample_id for verdict in report.verdicts if verdict.status == status}


def _control_ids(lab: AnyLab) -> set[str]:
    """Samples of the group `control`."""
    return {row.id for row in lab.planted.samples if row.group == "control"}


def _control_regressed(outcome: Outcome, lab_run: LabRun) -> float:
    """Share 0..1 of the learned rows of the group `control` that regressed, of those scored."""
    learned = _control_ids(lab_run.lab) & _ids(lab_run.report, "learned")
    learned -= set(outcome.unscored)
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
    # the same samples, model and mitigations: only the causes differ, so that what the oracle
    # reaches more is what better diagnoses would be worth
    # of the lab's own world: nobody wrote an oracle for the real lab
    lab = cast(Lab, lab_run.lab)
    true_baseline = replace(baseline, diagnoses=oracle(report.diagnoses, lab))
    best = _compose(lab_run, experiment, true_baseline)
    # of a diagnosed run, some sample is scored
    before = cast(float, report.unlearned_rate)
    fell = before - auto["unlearned"]
    fell_for_oracle = before - best["unlearned"]
    return {
        "unlearned": before,
        "auto": auto,
        "oracle": best,
        "reached": fell / fell_for_oracle if fell_for_oracle else None,
    }


def _compose(lab_run: LabRun, experiment: Experiment, baseline: Baseline) -> dict[str, Any]:
    """What the composed mitigations do when the samples have the diagnoses of `baseline`."""
    plugins = plugin_loader.configure("mitigation", experiment.mitigations)
    tried = search.try_composed(plugins, baseline, SearchOptions("auto"))
    if not tried.outcomes:
        reason = "; ".join(tried.failed) or "no mitigation has anything to do"
        raise StepFailed(reason, lab_run.report)
    (outcome,) = tried.outcomes
    causes = Counter[str]()
    for diagnosis in baseline.diagnoses:
        if diagnosis.cause:
            causes[diagnosis.cause] += 1
    control = _control_ids(lab_run.lab)
    return {
        "unlearned": outcome.unlearned_rate,
        "combines": outcome.combines,
        "groups": dict(causes.most_common()),
        "first": _first_by_cause(list(causes), outcome.combines, plugins, baseline),
        "control_regressed": len(control & set(outcome.regressed)) / len(control),
        "guard": outcome.guard.model_dump() if outcome.guard else None,
        "seconds": outcome.seconds,
    }


def _first_by_cause(
    causes: Sequence[str],
    combines: Sequence[str],
    plugins: Mapping[str, Mitigation],
    baseline: Baseline,
) -> dict[str, str | None]:
    """The first of the combined mitigations that has targets of a cause, by cause."""
    first: dict[str, str | None] = dict.fromkeys(causes)
    cause_by_id = {d.verdict.sample_id: d.cause for d in baseline.diagnoses}
    # an outcome does not say which mitigation was chosen for what, but plans can be made again
    for name in combines:
        plan = checked_plan(name, plugins[name], baseline.diagnoses, baseline.context)
        if plan is None:
            continue
        for target in plan.targets:
            cause = cause_by_id[target]
            if cause and first[cause] is None:
                first[cause] = name
    return first


def oracle(diagnoses: Sequence[Diagnosis], lab: Lab) -> list[Diagnosis]:
    """The diagnoses that somebody who knows the plant would make of the same samples.

    The ledger's evidence is taken as it is.
    """
    planted = {row.id: row for row in lab.planted.samples if row.group in CAUSES}
    contradicting_ids = dict[Fact, list[str]]()
    for row in lab.planted.rows:
        if row.group == "contradicting":
            contradicting_ids.setdefault(row.fact, []).append(row.id)

    truth = list[Diagnosis]()
    for diagnosis in diagnoses:
        sample_id = diagnosis.verdict.sample_id
        # the control, and rows that are there for the planted ones: unlearned for no known cause
        if sample_id not in planted:
            truth.append(Diagnosis(verdict=diagnosis.verdict))
            continue
        row = planted[sample_id]
        details = _planted_details(row, diagnosis, contradicting_ids)
        evidence = Evidence(cause=row.group, strength=1, reason="planted", details=details)
        truth.append(
            Diagnosis(
                verdict=diagnosis.verdict,
                cause=row.group,
                strength=1,
                evidence={row.group: evidence},
            )
        )
    return truth


def _planted_details(
    row: Row, diagnosis: Diagnosis, contradicting_ids: Mapping[Fact, Sequence[str]]
) -> Details | dict[str, Any]:
    """What mitigations read of the evidence for a row's group, as it was planted."""
    if row.group == ContradictionDetails.cause:
        # the sample's label is right: those that outvote it are to be repaired
        return ContradictionDetails(wrong=THE_OTHERS, rows=tuple(contradicting_ids[row.fact]))
    if row.group == OptimizationDetails.cause:
        # the alias, of which more rows are needed
        return OptimizationDetails(rarest_word=row.adjective)
    if row.group == "not_trained":
        return dict(diagnosis.evidence[row.group].details)
    # what is missing, believed or forgotten, mitigations take from the sample itself
    return {}
