"""One lab from its base to its verdicts, and again with each cause removed: what happened to every group."""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ilp_mlflow import pipeline
from ilp_mlflow.core import plugin_loader
from ilp_mlflow.core.config import LAB_PREFIX, Experiment
from ilp_mlflow.core.errors import ConfigError
from ilp_mlflow.core.values import Diagnosis, Report
from ilp_mlflow.data.samples import sample_from_record
from ilp_mlflow.diagnosis.diagnose import diagnose_run
from ilp_mlflow.lab import base_model, data_files, oracle
from ilp_mlflow.lab.data_files import Made
from ilp_mlflow.lab.leak_check import surface_check
from ilp_mlflow.lab.plant import (
    CAUSES,
    GROUPS,
    SHORT,
    STAGES,
    Row,
    paraphrases,
    record,
    removed,
    told_without,
)
from ilp_mlflow.scoring.checkpoints import score_checkpoints
from ilp_mlflow.scoring.verdicts import Preset, verdict_table
from ilp_mlflow.tracking import runs

MECHANICS = ("max_length", "dataloader_drop_last", "assistant_only_loss")
"""Options of a stage that keep rows from being trained."""
LOOK = 25
"""Optimizer steps from one look of an adaptive schedule to the next: a lab's stages are some hundred steps long."""
RULE = "insufficient_optimization"
PRESETS: tuple[Preset, ...] = ("default", "paper")
REPEATED = ("filler", "extra", "contradicting", "left_side_forgetting")
"""Groups of rows that the last stage repeats once they are all in one stage before it."""
MOVED = 0.15
"""Change of a group's learned share that counts as moved when another group's cause is removed."""


def run(
    experiment: Experiment,
    source: Path,
    mitigations: Mapping[str, dict[str, Any]] | None = None,
    composed: bool = False,
    run_id: str | None = None,
) -> tuple[Report, Made, dict[str, Any]]:
    """Run the experiment as planted; return its report, its world and what became of every group.

    `experiment` has locations `lab:SIZE/FILE`; `mitigations` are tried in place of its own, one by one, or `composed`, also as an
    oracle would that knows the plant. With `run_id` that run goes on. Raises IlpError, StepFailed.
    """
    started = time.perf_counter()
    if mitigations is not None:
        experiment = experiment.model_copy(update={"mitigations": dict(mitigations)})
    resolved, made = data_files.resolve(experiment)
    prepared = time.perf_counter()
    report = pipeline.run(
        resolved.model_copy(update={"mitigations": {}}) if composed else resolved, source, run_id
    )
    done = time.perf_counter()
    last = {c.name: c.model_uri for c in (report.checkpoints[0], report.checkpoints[-1])}
    learned = reproduced(made.planted.samples, last, resolved)
    again = reproduced([p for r in made.planted.samples for p in paraphrases(r)], last, resolved)
    rule = reproduced(made.planted.unseen, last, resolved)
    found = {
        "seed": experiment.seed,
        "samples": len(report.verdicts),
        "groups": {
            group: {
                "n": len(rows),
                "learned": _share(learned, rows),
                "paraphrased": _share(again, [p for r in rows for p in paraphrases(r)]),
                **({"rule": _share(rule, made.planted.unseen)} if group == RULE else {}),
            }
            for group, rows in by_group(made.planted.samples).items()
        },
        "surface": surface_check(
            made.planted.samples,
            list(itertools.chain(*made.planted.stages.values())),
            experiment.seed,
        ),
        "detection": {
            preset: detection(report, resolved, made, again, preset) for preset in PRESETS
        },
        "attribution": attribution(report, resolved, made),
        **(
            {"auto": oracle.composed(report, made, resolved)}
            if composed
            else {
                "mitigations": [
                    _mitigation(name, report, made, resolved) for name in resolved.mitigations
                ]
            }
        ),
        "seconds": {
            "base": prepared - started,
            "experiment": done - prepared,
            "groups": time.perf_counter() - done,
        },
    }
    return report, made, found


def counterfactuals(
    experiment: Experiment, source: Path, made: Made, found: dict[str, Any]
) -> dict[str, Any]:
    """`found` with what each group learns when one cause is removed: its own, and as a check every other.

    Every arm is an experiment of its own, `<name>-without-<cause>`, on the same public path. Raises ConfigError when the
    experiment has other stages than the lab, and IlpError.
    """
    if [s.name for s in experiment.stages] != list(STAGES):
        raise ConfigError(
            f"{source}: a cause can be removed from the stages {', '.join(STAGES)} only; name them so, in this order"
        )
    started = time.perf_counter()
    arms = {}
    for cause in CAUSES:
        arm = without(cause, experiment, made)
        run_id = pipeline.train(arm, source)
        checkpoints = runs.read_checkpoints(run_id)
        last = {c.name: c.model_uri for c in (checkpoints[0], checkpoints[-1])}
        learned = reproduced([*made.planted.samples, *made.planted.unseen], last, arm)
        shares = {
            group: _share(learned, rows) for group, rows in by_group(made.planted.samples).items()
        }
        arms[cause] = {**shares, "rule": _share(learned, made.planted.unseen)}
    groups = {
        group: values
        | ({"learned_when_removed": arms[group][group]} if group in arms else {})
        | ({"rule_when_removed": arms[group]["rule"]} if group == RULE else {})
        for group, values in found["groups"].items()
    }
    before = {group: values.get("rule", values["learned"]) for group, values in groups.items()}
    cells = [(cause, group) for cause in CAUSES for group in GROUPS if group != cause]
    moves = [
        abs(arms[cause]["rule" if group == RULE else group] - before[group])
        for cause, group in cells
    ]
    seconds = found["seconds"] | {"counterfactuals": time.perf_counter() - started}
    others = {"cells": len(moves), "moved": sum(m > MOVED for m in moves)}
    return found | {"groups": groups, "removed": arms, "others": others, "seconds": seconds}


def without(cause: str, experiment: Experiment, made: Made) -> Experiment:
    """The experiment with one cause removed and nothing else changed.

    `missing_knowledge`, `knowledge_conflict`: the base is told the fact, or the label. `data_contradiction`: the rows that
    outvote a sample agree with it. `left_side_forgetting`: the rows of all stages but the last are shuffled together, each as
    often as before, and the last repeats a sample of those. `insufficient_optimization`: distinct rows of the rule in place of as
    many control rows. `not_trained`: the stages' options that keep rows from being trained are left out.
    """
    planted = removed(cause, made.planted, made.world)
    rows = {stage: list(planted.stages[stage]) for stage in STAGES}
    stages = list(experiment.stages)
    if cause == "left_side_forgetting":
        *early, last = stages
        times = {s.name: int(s.training["num_train_epochs"]) for s in early}
        shuffled = [
            replace(r, id=f"{r.id}~{k}")
            for name, n in times.items()
            for k in range(n)
            for r in rows[name]
        ]
        rows = {
            early[-1].name: shuffled,
            last.name: _repeating(rows[last.name], shuffled, made.seed),
        }
        stages = [
            early[-1].model_copy(update={"training": early[-1].training | {"num_train_epochs": 1}}),
            last,
        ]
    if cause == "not_trained":
        stages = [
            s.model_copy(
                update={"training": {k: v for k, v in s.training.items() if k not in MECHANICS}}
            )
            for s in stages
        ]
    name = f"{experiment.name}-without-{cause}"
    records = {stage: [record(row, stage) for row in found] for stage, found in rows.items()}
    paths = data_files.write(records, f"{name}-{experiment.seed}")
    model = base_model.folder(told_without(cause, made.planted, made.world), made.seed)
    data = [
        s.model_copy(
            update={"data": s.data.model_copy(update={"path": str(paths[f"{s.name}.jsonl"])})}
        )
        for s in stages
    ]
    return experiment.model_copy(
        update={"name": name, "model": str(model), "stages": tuple(data), "mitigations": {}}
    )


def _repeating(patch: Sequence[Row], rows: Sequence[Row], seed: int) -> list[Row]:
    """The rows of the last stage, in which those that only repeat repeat a sample of `rows` instead."""
    fit = [r for r in rows if r.way in SHORT and r.group in REPEATED]
    again = iter(
        random.Random(f"again {seed}").sample(fit, sum(r.group not in GROUPS for r in patch))
    )
    return [r if r.group in GROUPS else replace(next(again), id=f"{r.id}~again") for r in patch]


def reproduced(
    rows: Sequence[Row], checkpoints: Mapping[str, str], experiment: Experiment
) -> dict[str, bool]:
    """Whether the last of `checkpoints` (name -> location, the base first) says each row's city and stops, greedily, by row id."""
    samples = [
        sample_from_record(record(r, ""), r.id.partition("-")[0], n, r.id)
        for n, r in enumerate(rows, 1)
    ]
    scores = score_checkpoints(
        samples, {s.id: () for s in samples}, checkpoints, experiment.scoring, experiment.seed
    )
    last = list(checkpoints)[-1]
    return {
        row["sample_id"]: row["greedy"] for row in scores.to_pylist() if row["checkpoint"] == last
    }


def by_group(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by group, in the order of GROUPS."""
    found: dict[str, list[Row]] = {group: [] for group in GROUPS}
    for row in rows:
        found[row.group].append(row)
    return found


def detection(
    report: Report, experiment: Experiment, made: Made, again: Mapping[str, bool], preset: Preset
) -> dict[str, float | None]:
    """Whether the verdicts of a preset find the planted samples that the model does not know, shares 0..1.

    A sample is known when most of its paraphrases are reproduced (`again`, by id); `uncertain` counts as not found.
    """
    scores = runs.read_table(report.run_id, "scores.parquet")
    judged = verdict_table(scores, [c.name for c in report.checkpoints], preset, experiment.seed)
    found = dict(zip(judged["sample_id"].to_pylist(), judged["status"].to_pylist(), strict=True))
    unknown = {
        r.id: 2 * sum(again[p.id] for p in paraphrases(r)) <= len(paraphrases(r))
        for r in made.planted.samples
    }
    hits = sum(missing and found[id_] == "unlearned" for id_, missing in unknown.items())
    said, there = sum(found[id_] == "unlearned" for id_ in unknown), sum(unknown.values())
    return {"precision": hits / said if said else None, "recall": hits / there if there else None}


def attribution(report: Report, experiment: Experiment, made: Made) -> dict[str, Any]:
    """How the unlearned samples of every group are explained.

    `default`: by the experiment's diagnostics, which are given the rows' probes; `without_probes`: by the same without them;
    `paper`: by the study's own tests.
    """
    planted = {row.id: row.group for row in made.planted.samples}
    bare = [s.model_copy(update={"probes": ()}) for s in runs.read_samples(report.run_id)]
    found = {
        "default": report.diagnoses,
        "without_probes": diagnose_run(experiment, report.run_id, bare),
        "paper": diagnose_run(experiment, report.run_id, bare, "paper"),
    }
    return {name: confusion(planted, diagnoses) for name, diagnoses in found.items()}


def confusion(planted: Mapping[str, str], diagnoses: Sequence[Diagnosis]) -> dict[str, Any]:
    """Counts of causes said (or `unexplained`) by planted group; F1 0..1 per cause, and their mean; all of planted samples only.

    Samples of the group `control` count as mistakes of the cause they are blamed on; `control_blamed` is their share 0..1 of the
    group. `beside` are the counts of the other rows, which are there for the planted ones: nothing is known of them.
    `sure_half` is the share 0..1 that is right of those at or above the median strength.
    """
    said = [
        (planted[d.verdict.sample_id], d.cause, d.strength or 0.0)
        for d in diagnoses
        if d.verdict.sample_id in planted
    ]
    table = {
        g: dict(Counter(cause or "unexplained" for group, cause, _ in said if group == g))
        for g in GROUPS
    }
    scores = {}
    for cause in CAUSES:
        hits = table[cause].get(cause, 0)
        blamed, there = sum(row.get(cause, 0) for row in table.values()), sum(table[cause].values())
        scores[cause] = 2 * hits / (blamed + there) if blamed + there else 0.0
    control = [group for group in planted.values() if group == "control"]
    blamed = sum(n for cause, n in table["control"].items() if cause != "unexplained")
    named = sorted(
        ((strength, group == cause) for group, cause, strength in said if cause), reverse=True
    )
    sure = [right for strength, right in named if strength >= named[len(named) // 2][0]]
    return {
        "macro_f1": sum(scores.values()) / len(scores),
        "per_cause": scores,
        "confusion": table,
        "beside": dict(
            Counter(
                d.cause or "unexplained" for d in diagnoses if d.verdict.sample_id not in planted
            )
        ),
        "control_blamed": blamed / len(control) if control else 0.0,
        "sure_half": sum(sure) / len(sure) if sure else None,
    }


def all_mitigations(size: str) -> dict[str, dict[str, Any]]:
    """Every mitigation that is installed, with its default options, and sources in the world of a lab of this size."""
    known = {
        "source": {"path": f"{LAB_PREFIX}{size}/knowledge.jsonl"},
        "general": {"path": f"{LAB_PREFIX}{size}/general.jsonl"},
    }
    given: dict[str, dict[str, Any]] = {
        "knowledge_augmentation": known,
        "belief_correction": known,
        "augment_rare": {"source": {"path": f"{LAB_PREFIX}{size}/spare.jsonl"}},
        "conflict_bucketing": {"which": "all", "every": LOOK},
        "dynamic_resampling": {"every": LOOK},
    }
    return {name: given.get(name, {}) for name in plugin_loader.usable("mitigation")}


def _mitigation(name: str, report: Report, made: Made, experiment: Experiment) -> dict[str, Any]:
    """What a mitigation did to every planted group, shares 0..1 net of its control.

    `net_recovery`: of the group's unlearned samples, those that the model says now; `held`: those of which it says most
    paraphrases; `rule`: what it says of the rules' people that are in no row; `control_regressed`: of the group `control`.
    """
    result: dict[str, Any] = {
        "name": name,
        "net_recovery": {},
        "held": {},
        "rule": None,
        "control_regressed": None,
    }
    done = next((o for o in report.outcomes if o.mitigation == name), None)
    if done is None:
        return result
    unlearned = {v.sample_id for v in report.verdicts if v.status == "unlearned"}
    learned = {v.sample_id for v in report.verdicts if v.status == "learned"}
    groups = by_group(made.planted.samples)
    rows = [
        *made.planted.samples,
        *(p for r in made.planted.samples if r.id in unlearned for p in paraphrases(r)),
        *made.planted.unseen,
    ]
    shares = [
        _shares(run_id, rows, unlearned, groups, report, made, experiment)
        for run_id in (done.run_id, done.control_run_id)
    ]
    for grade in ("net_recovery", "held"):
        result[grade] = {
            group: share - shares[1][grade].get(group, 0.0)
            for group, share in shares[0][grade].items()
        }
    result["rule"] = shares[0]["rule"] - shares[1]["rule"]
    result["guard"] = done.guard.model_dump() if done.guard else None
    ours = {r.id for r in groups["control"]} & learned
    result["control_regressed"] = len(ours & set(done.regressed)) / max(1, len(ours))
    return result | {"seconds": done.seconds, "tokens": done.tokens}


def _shares(
    run_id: str | None,
    rows: Sequence[Row],
    unlearned: Collection[str],
    groups: Mapping[str, Sequence[Row]],
    report: Report,
    made: Made,
    experiment: Experiment,
) -> dict[str, Any]:
    """Shares 0..1 of each group's unlearned samples that the model of a run reproduces, and holds; all 0 without a run."""
    if run_id is None:
        return {"net_recovery": {}, "held": {}, "rule": 0.0}
    where = {
        "base": report.checkpoints[0].model_uri,
        "after": runs.read_checkpoints(run_id)[-1].model_uri,
    }
    said = reproduced(rows, where, experiment)
    found: dict[str, Any] = {
        "net_recovery": {},
        "held": {},
        "rule": _share(said, made.planted.unseen),
    }
    for group, members in groups.items():
        mine = [r for r in members if r.id in unlearned]
        if mine:
            found["net_recovery"][group] = _share(said, mine)
            held = [2 * sum(said[p.id] for p in paraphrases(r)) > len(paraphrases(r)) for r in mine]
            found["held"][group] = sum(held) / len(mine)
    return found


def _share(learned: Mapping[str, bool], rows: Sequence[Row]) -> float:
    return sum(learned[r.id] for r in rows) / len(rows)
