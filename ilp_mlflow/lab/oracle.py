"""Mitigations composed by what the diagnosis says, and by what somebody would say who knows the plant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ilp_mlflow.core import plugin_loader
from ilp_mlflow.core.config import Experiment
from ilp_mlflow.core.errors import StepFailed
from ilp_mlflow.core.values import Details, Diagnosis, Evidence, Report
from ilp_mlflow.diagnosis.causes.data_contradiction import ContradictionDetails
from ilp_mlflow.diagnosis.causes.insufficient_optimization import OptimizationDetails
from ilp_mlflow.diagnosis.wrong_side import THE_OTHERS
from ilp_mlflow.lab.data_files import Made
from ilp_mlflow.lab.plant import CAUSES, Row
from ilp_mlflow.mitigation import search
from ilp_mlflow.mitigation.trial import checked_plan
from ilp_mlflow.tracking import runs


def composed(report: Report, made: Made, experiment: Experiment) -> dict[str, Any]:
    """What `mitigate --plan auto` did, and what it did for an oracle: shares 0..1 of all samples that are unlearned.

    `first`: the mitigation chosen for each cause, those with most samples first; `reached`: by how much the share fell, of that by
    which it fell for the oracle. Raises IlpError, and StepFailed when a mitigation fails.
    """
    plugins = plugin_loader.configure("mitigation", experiment.mitigations)
    known = search.read_baseline(experiment, report.run_id, runs.read_samples(report.run_id))
    found: dict[str, Any] = {"unlearned": report.unlearned_rate}
    control = {r.id for r in made.planted.samples if r.group == "control"}
    for name, diagnoses in (("auto", known.diagnoses), ("oracle", oracle(report.diagnoses, made))):
        tried = search.try_composed(
            experiment,
            report.run_id,
            plugins,
            replace(known, diagnoses=diagnoses),
            search.SearchOptions("auto"),
        )
        if not tried.outcomes:
            raise StepFailed("; ".join(tried.failed) or "no mitigation has anything to do", report)
        (one,) = tried.outcomes
        plans = {n: checked_plan(n, plugins[n], diagnoses, known.context) for n in one.combines}
        causes = {d.verdict.sample_id: d.cause for d in diagnoses}
        groups = Counter(c for c in causes.values() if c)
        found[name] = {
            "unlearned": one.unlearned_rate,
            "combines": one.combines,
            "groups": dict(groups.most_common()),
            "first": {
                c: next(
                    (n for n, p in plans.items() if p and c in {causes[i] for i in p.targets}), None
                )
                for c in groups
            },
            "control_regressed": len(control & set(one.regressed)) / len(control),
            "guard": one.guard.model_dump() if one.guard else None,
            "seconds": one.seconds,
        }
    fell, could = (report.unlearned_rate - found[name]["unlearned"] for name in ("auto", "oracle"))
    return found | {"reached": fell / could if could else None}


def oracle(diagnoses: Sequence[Diagnosis], made: Made) -> list[Diagnosis]:
    """The diagnoses that somebody who knows the plant would make of the same samples; the ledger's evidence is taken as it is."""
    planted = {row.id: row for row in made.planted.samples if row.group in CAUSES}
    against: dict[Any, list[str]] = {}
    for row in (
        row for rows in made.planted.stages.values() for row in rows if row.group == "contradicting"
    ):
        against.setdefault(row.fact, []).append(row.id)

    def details(row: Row, said: Diagnosis) -> Details | dict[str, Any]:
        if row.group == ContradictionDetails.cause:
            return ContradictionDetails(wrong=THE_OTHERS, rows=tuple(against[row.fact]))
        if row.group == OptimizationDetails.cause:
            return OptimizationDetails(rarest_word=row.adjective)
        return said.evidence[row.group].details if row.group == "not_trained" else {}

    found = []
    for said in diagnoses:
        known = planted.get(said.verdict.sample_id)
        if known is None:
            found.append(Diagnosis(verdict=said.verdict))
            continue
        evidence = Evidence(
            cause=known.group, strength=1, reason="planted", details=details(known, said)
        )
        found.append(
            Diagnosis(
                verdict=said.verdict,
                cause=known.group,
                strength=1,
                evidence={known.group: evidence},
            )
        )
    return found
