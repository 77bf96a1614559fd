"""A mitigation on trial: its plan and a control, trained in child runs from the same checkpoint, all samples scored again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ilp_mlflow import catalog, measure, outcome, tracking, verdict
from ilp_mlflow.config import Experiment
from ilp_mlflow.errors import PluginError
from ilp_mlflow.plugin import Context, Mitigation
from ilp_mlflow.report import UNEXPLAINED
from ilp_mlflow.stage import fit
from ilp_mlflow.types import Checkpoint, Diagnosis, Outcome, Plan, Request, Stage, Status, Verdict, as_json, to_rows

RESEEDED = 1
"""Added to the seed of every stage that is trained again, under a mitigation and its control alike."""


@dataclass(frozen=True)
class Trial:
    """Stages to train from a checkpoint."""

    start: Checkpoint
    stages: tuple[Stage, ...]

    @property
    def digest(self) -> str:
        """Name of what it trains, equal for equal trials."""
        return hashlib.sha256("".join([self.start.model_uri, *(s.model_dump_json() for s in self.stages)]).encode()).hexdigest()


def attempt(
    experiment: Experiment,
    name: str,
    plugin: Mitigation,
    diagnoses: Sequence[Diagnosis],
    context: Context,
    parent: str,
    run_id: str,
) -> Outcome | Request | None:
    """Ask `plugin` for its plan, train it in the run `run_id` and its control beside it, both below the run `parent`; compare.

    A control that was trained before is not trained again. Raises PluginError for a plan that cannot be tried, and IlpError.
    """
    plan = _plan(name, plugin, diagnoses, context)
    if not isinstance(plan, Plan):
        if plan is not None:
            tracking.write(run_id, "request.json", plan.model_dump_json(indent=2))
            tracking.log(run_id, tags={"mlflow.note.content": plan.reason})
        return plan
    remedy, control = trials(name, plan, context)
    # the control first: it may be the one that fails, and is shared
    if remedy == control:
        by_control, control_id = None, None
    else:
        control_id = _control(experiment, control, context, parent)
        by_control = _statuses(experiment, control_id)
    tokens, seconds = _train(experiment, remedy, context, parent, run_id)
    found = _outcome(name, run_id, plan.targets, diagnoses, context, _statuses(experiment, run_id), by_control, experiment.seed)
    found = found.model_copy(update={"control_run_id": control_id, "tokens": tokens, "seconds": seconds})
    tracking.log(run_id, metrics=rates(found, context))
    tracking.write(run_id, "outcome.json", found.model_dump_json(indent=2))
    return found


def trials(name: str, plan: Plan, context: Context) -> tuple[Trial, Trial]:
    """A plan and its control, both from the last checkpoint up to which neither differs from the experiment.

    Raises PluginError when no stage is left for the control.
    """
    control = context.stages if plan.control is None else plan.control
    same = 0
    for was, *now in zip(context.stages, plan.stages, control, strict=False):
        if any(n != was for n in now):
            break
        same += 1
    if same == len(plan.stages) == len(context.stages):
        same = 0  # nothing is changed: all of it again
    if not control[same:]:
        raise PluginError(f"'{name}' adds stages behind the last and gives no control; add one with as many steps")
    names = ["base", *(s.name for s in context.stages)]
    start = next(c for c in context.checkpoints if c.name == names[same])
    remedy, other = (Trial(start, tuple(_reseeded(s) for s in stages[same:])) for stages in (plan.stages, control))
    return remedy, other


def rates(found: Outcome, context: Context) -> dict[str, float]:
    """Shares 0..1: targets recovered, learned samples regressed, and net recovery where there is one."""
    learned = sum(v.status == "learned" for v in context.verdicts.values())
    rates = {
        "recovered": len(set(found.targets) & set(found.recovered)) / max(1, len(found.targets)),
        "regressed": len(found.regressed) / max(1, learned),
    }
    return rates if found.net_recovery is None else {**rates, "net_recovery": found.net_recovery}


def _reseeded(stage: Stage) -> Stage:
    seed = stage.training.get("seed", 0) + RESEEDED
    return stage.model_copy(update={"training": {**stage.training, "seed": seed}, "score_every": None})


def _control(experiment: Experiment, control: Trial, context: Context, parent: str) -> str:
    """The run of a control below the run `parent`: one that is there, else it is trained now."""
    done = tracking.finished(parent, {"ilp.kind": "control", "ilp.trial": control.digest})
    if done:
        return done
    with tracking.run("control", "control", parent=parent) as run_id:
        tracking.log(run_id, tags={"ilp.trial": control.digest})
        _train(experiment, control, context, parent, run_id)
    return run_id


def _train(experiment: Experiment, trial: Trial, context: Context, parent: str, run_id: str) -> tuple[int, float]:
    """Train a trial in the run `run_id`, score all samples as the diagnosis in the run `parent` did; tokens and seconds."""
    uri, tokens, seconds = trial.start.model_uri, 0, 0.0
    for stage in trial.stages:
        checkpoints, done = fit(experiment, stage, uri, run_id, lambda s, f: catalog.store(s, f, run_id), f"{stage.name}/")
        uri, tokens, seconds = checkpoints[-1].model_uri, tokens + done.tokens, seconds + done.seconds
    tracking.write(run_id, "checkpoints.json", as_json([Checkpoint(name="after", model_uri=uri, run_id=run_id)]))
    # the options of the diagnosis, so that what changes is the model
    wrong = {row["sample_id"]: row["wrong"] for row in tracking.read_table(parent, "options.parquet").to_pylist()}
    where = {"base": context.checkpoints[0].model_uri, "after": uri}
    samples = list(context.samples.values())
    scores = measure.score(samples, wrong, where, experiment.scoring, experiment.seed, experiment.tokenizer)
    tracking.write(run_id, "scores.parquet", scores)
    statuses = _statuses(experiment, run_id)
    unlearned = sum(status == "unlearned" for status in statuses.values()) / len(statuses)
    tracking.log(run_id, metrics={"unlearned_rate": unlearned, "tokens": tokens, "seconds": seconds})
    return tokens, seconds


def _statuses(experiment: Experiment, run_id: str) -> dict[str, Status]:
    """The status of every sample after the trial in a run, by id."""
    scores = tracking.read_table(run_id, "scores.parquet")
    judged = verdict.verdicts(scores, ["base", "after"], experiment.scoring.preset, experiment.seed)
    return {v.sample_id: v.status for v in to_rows(judged, Verdict)}


def _outcome(
    name: str,
    run_id: str,
    targets: tuple[str, ...],
    diagnoses: Sequence[Diagnosis],
    context: Context,
    after: Mapping[str, Status],
    by_control: Mapping[str, Status] | None,
    seed: int,
) -> Outcome:
    before = {i: v.status for i, v in context.verdicts.items()}
    change = outcome.compare(before, after)
    found: dict[str, Any] = {"recovered": change.recovered, "still": change.still, "regressed": change.regressed}
    causes = {d.verdict.sample_id: d.cause or UNEXPLAINED for d in diagnoses}
    control = outcome.compare(before, by_control) if by_control is not None else None
    found["causes"] = outcome.tallies(causes, change.recovered, control.recovered if control else ())
    if control and targets:
        ours, theirs = ([i for i in targets if i in set(c.recovered)] for c in (change, control))
        share, interval, p_value = outcome.net_recovery(ours, theirs, targets, seed)
        found |= {"net_recovery": share, "net_interval": interval, "p_value": p_value}
        found["regressed_by_control"] = len(control.regressed)
    return Outcome(mitigation=name, run_id=run_id, targets=targets, **found)


def _plan(name: str, plugin: Mitigation, diagnoses: Sequence[Diagnosis], context: Context) -> Plan | Request | None:
    plan = plugin.plan(diagnoses, context)
    if plan is not None and not isinstance(plan, Plan | Request):
        raise PluginError(f"'{name}' must return a Plan, a Request or None, got {type(plan).__name__}")
    strangers = set(plan.targets) - set(context.samples) if plan else set()
    if strangers:
        raise PluginError(f"'{name}' targets '{min(strangers)}', which is no sample of the experiment")
    if isinstance(plan, Plan) and not plan.stages:
        raise PluginError(f"'{name}' plans no stages; return None when there is nothing to do")
    return plan
