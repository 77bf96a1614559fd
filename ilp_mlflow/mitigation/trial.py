"""A mitigation on trial: its plan and a control, trained in child runs from the same checkpoint, all samples scored again."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ilp_mlflow.core.config import Experiment
from ilp_mlflow.core.errors import PluginError
from ilp_mlflow.core.interfaces import Context, Mitigation
from ilp_mlflow.core.values import (
    Checkpoint,
    Diagnosis,
    Outcome,
    Plan,
    Request,
    Stage,
    Status,
    Verdict,
    as_json,
    to_rows,
)
from ilp_mlflow.data.samples import stage_digest
from ilp_mlflow.diagnosis.attribution import UNEXPLAINED
from ilp_mlflow.diagnosis.diagnose import UI_ROWS
from ilp_mlflow.mitigation.outcome import outcome_fields, outcome_sentence
from ilp_mlflow.mitigation.side_effects import (
    Answers,
    Questions,
    answers_from_table,
    answers_to_table,
    ask_questions,
    guard_outcome,
)
from ilp_mlflow.scoring import loading
from ilp_mlflow.scoring.checkpoints import score_checkpoints
from ilp_mlflow.scoring.verdicts import verdict_table
from ilp_mlflow.tracking import model_registry, runs
from ilp_mlflow.tracking.dataset_inputs import log_dataset
from ilp_mlflow.training.stage import fit_stage

if TYPE_CHECKING:
    import pyarrow as pa

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
        parts = [self.start.model_uri, *(stage_digest(s) for s in self.stages)]
        return hashlib.sha256("".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class Baseline:
    """What every trial of an experiment is set against."""

    diagnoses: Sequence[Diagnosis]
    context: Context
    asked: Questions
    """What all models are asked beyond the samples."""
    answers: Answers
    """What the last checkpoint says to that."""


def run_trial(
    experiment: Experiment, name: str, plan: Plan, before: Baseline, parent: str, run_id: str
) -> Outcome:
    """Train a plan in the run `run_id` and its control beside it, both below the run `parent`, and compare all samples.

    What was trained before in a finished run below `parent` is not trained again. Raises PluginError for a plan that cannot be
    tried, and IlpError.
    """
    context = before.context
    remedy, control = plan_trials(name, plan, context)
    # the control first: it may be the one that fails, and is shared
    control_id = None if remedy == control else _control(experiment, control, before, parent)
    ours = _train(experiment, name, remedy, before, parent, run_id)
    theirs = _read(experiment, control_id) if control_id else None
    change = outcome_fields(
        {i: v.status for i, v in context.verdicts.items()},
        {d.verdict.sample_id: d.cause or UNEXPLAINED for d in before.diagnoses},
        plan.targets,
        ours.statuses,
        theirs.statuses if theirs else None,
        ours.answers.held,
        theirs.answers.held if theirs else {},
        (plan.dropped, _dropped(plan.control or (), context)),
        experiment.seed,
    )
    done = runs.metrics(run_id)
    hours = done["seconds"] / 3600 if loading.pick_device("auto") != "cpu" else None
    found = Outcome(
        mitigation=name,
        run_id=run_id,
        control_run_id=control_id,
        guard=guard_outcome(before.answers, ours.answers, theirs.answers if theirs else None),
        model_uri=runs.read_checkpoints(run_id)[-1].model_uri,
        tokens=int(done["tokens"]),
        control_tokens=int(runs.metrics(control_id)["tokens"]) if control_id else None,
        seconds=done["seconds"],
        accelerator_hours=hours,
        **change,
    )
    tags = {"ilp.mitigation": name, "mlflow.note.content": outcome_sentence(found)}
    model = model_registry.model_id(found.model_uri)
    runs.log(run_id, metrics=outcome_metrics(found, context), tags=tags, model=model)
    runs.log(run_id, metrics={"unlearned_rate": found.unlearned_rate}, step=1, model=model)
    runs.write(run_id, "outcome.json", found.model_dump_json(indent=2))
    return found


def plan_trials(name: str, plan: Plan, context: Context) -> tuple[Trial, Trial]:
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
        raise PluginError(
            f"'{name}' adds stages behind the last and gives no control; add one with as many steps"
        )
    names = ["base", *(s.name for s in context.stages)]
    start = next(c for c in context.checkpoints if c.name == names[same])
    remedy, other = (
        Trial(start, tuple(_reseeded(s) for s in stages[same:]))
        for stages in (plan.stages, control)
    )
    return remedy, other


def checked_plan(
    name: str, plugin: Mitigation, diagnoses: Sequence[Diagnosis], context: Context
) -> Plan | Request | None:
    """What a mitigation plans. Raises PluginError for what is no plan, or a plan for a stranger, without stages or a schedule."""
    plan = plugin.plan(diagnoses, context)
    if plan is not None and not isinstance(plan, Plan | Request):
        raise PluginError(
            f"'{name}' must return a Plan, a Request or None, got {type(plan).__name__}"
        )
    strangers = set(plan.targets) - set(context.samples) if plan else set()
    if strangers:
        raise PluginError(
            f"'{name}' targets '{min(strangers)}', which is no sample of the experiment"
        )
    if isinstance(plan, Plan):
        if not plan.stages:
            raise PluginError(f"'{name}' plans no stages; return None when there is nothing to do")
        for stage in (*plan.stages, *(plan.control or ())):
            ids = Counter(s.id for s in (*stage.samples, *stage.validation))
            if not stage.samples or max(ids.values()) > 1:
                what = (
                    f"id '{max(ids, key=lambda i: ids[i])}' twice"
                    if stage.samples
                    else "no samples"
                )
                raise PluginError(
                    f"'{name}' gives stage '{stage.name}' {what}; ids are unique, and empty stages left out"
                )
            if not (
                isinstance(stage.schedule, str)
                or callable(getattr(stage.schedule, "next_round", None))
            ):
                raise PluginError(
                    f"'{name}' gives stage '{stage.name}' a schedule without a method 'next_round'"
                )
    return plan


def outcome_metrics(found: Outcome, context: Context) -> dict[str, float]:
    """Shares 0..1: of the unlearned samples recovered, of the learned ones regressed, and, where there are any, held of those asked
    in other words, lost of the guard set, and net recovery of the targets; and the number of targets."""
    learned = sum(v.status == "learned" for v in context.verdicts.values())
    rates = {
        "targets": len(found.targets),
        "recovered": len(found.recovered) / max(1, len(found.recovered) + len(found.still)),
        "regressed": len(found.regressed) / max(1, learned),
    }
    asked = [t for t in found.causes.values() if t.paraphrased]
    if asked:
        rates["held"] = sum(t.held for t in asked) / sum(t.paraphrased for t in asked)
    if found.guard:
        rates["guard_lost"] = found.guard.lost / found.guard.right
    return rates if found.net_recovery is None else {**rates, "net_recovery": found.net_recovery}


def _dropped(stages: Sequence[Stage], context: Context) -> frozenset[str]:
    """Samples of the experiment that are in none of the stages; none where there are no stages."""
    kept = {s.id for stage in stages for s in stage.samples}
    return frozenset(context.samples) - kept if kept else frozenset()


def _reseeded(stage: Stage) -> Stage:
    seed = stage.training.get("seed", 0) + RESEEDED
    return stage.model_copy(
        update={"training": {**stage.training, "seed": seed}, "score_every": None}
    )


def _control(experiment: Experiment, control: Trial, before: Baseline, parent: str) -> str:
    """The run of a control below the run `parent`: one that is there, else it is trained now."""
    done = runs.find_finished(parent, {"ilp.kind": "control", "ilp.trial": control.digest})
    name = f"control {control.digest[:6]}"
    if done:
        found = _train(
            experiment, name, control, before, parent, done
        )  # it may have been asked other things then
        runs.log_changed(done, {"unlearned_rate": found.unlearned_rate}, step=1)
        return done
    with runs.start(name, "control", parent=parent) as run_id:
        found = _train(experiment, name, control, before, parent, run_id)
        uri = runs.read_checkpoints(run_id)[-1].model_uri
        runs.log(
            run_id,
            metrics={"unlearned_rate": found.unlearned_rate},
            step=1,
            model=model_registry.model_id(uri),
        )
    return run_id


@dataclass(frozen=True)
class _Trained:
    statuses: Mapping[str, Status]
    answers: Answers

    @property
    def unlearned_rate(self) -> float:
        return sum(status == "unlearned" for status in self.statuses.values()) / len(self.statuses)


def _train(
    experiment: Experiment, name: str, trial: Trial, before: Baseline, parent: str, run_id: str
) -> _Trained:
    """Train a trial in the run `run_id`, unless that was done; score all samples as the diagnosis did, and ask the rest."""
    done = runs.find_finished(parent, {"ilp.trial": trial.digest})
    if done != run_id:
        facts = {
            "mitigation": name,
            "rows": sum(len(s.samples) for s in trial.stages),
            "start": trial.start.name,
        }
        unlearned = len(before.diagnoses) / len(
            before.context.samples
        )  # the first of its metrics is the one MLflow compares by
        runs.log(
            run_id,
            metrics={"unlearned_rate": unlearned},
            params={f"ilp.{k}": v for k, v in facts.items()},
        )
        model_registry.log_model_inputs(run_id, [trial.start.model_uri])
        for stage in trial.stages:
            log_dataset(run_id, stage.name, stage.samples, "training")
    if done:
        uri, metrics = runs.read_checkpoints(done)[-1].model_uri, runs.metrics(done)
        tokens, seconds = metrics["tokens"], metrics["seconds"]
    else:
        uri, tokens, seconds = trial.start.model_uri, 0.0, 0.0
        for stage in trial.stages:
            checkpoints, made = fit_stage(
                experiment,
                stage,
                uri,
                run_id,
                lambda s, f: model_registry.store(f"{name} {s}", f, run_id),
            )
            uri, tokens, seconds = (
                checkpoints[-1].model_uri,
                tokens + made.tokens,
                seconds + made.seconds,
            )
    runs.write(
        run_id,
        "checkpoints.json",
        as_json([Checkpoint(name="after", model_uri=uri, run_id=run_id)]),
    )
    # the options of the diagnosis, so that what changes is the model
    wrong = {
        row["sample_id"]: row["wrong"]
        for row in runs.read_table(parent, "options.parquet").to_pylist()
    }
    base, samples = before.context.checkpoints[0].model_uri, list(before.context.samples.values())
    where = {"base": base, "after": uri}
    scores = score_checkpoints(
        samples, wrong, where, experiment.scoring, experiment.seed, experiment.tokenizer
    )
    runs.write(run_id, "scores.parquet", scores)
    runs.write(
        run_id,
        "answers.parquet",
        answers_to_table(ask_questions(before.asked, base, uri, experiment)),
    )
    found = _read(experiment, run_id)
    runs.write_ui_table(run_id, "diagnosis.json", _table(before, found.statuses).slice(0, UI_ROWS))
    runs.log_changed(
        run_id, {"tokens": tokens, "seconds": seconds}, tags={"ilp.trial": trial.digest}
    )
    return found


def _table(before: Baseline, statuses: Mapping[str, Status]) -> pa.Table:
    """One row per sample, those first that are unlearned before or after: its cause while it is unlearned, and its statuses."""
    import pyarrow as pa

    verdicts, causes = (
        before.context.verdicts,
        {d.verdict.sample_id: d.cause or UNEXPLAINED for d in before.diagnoses},
    )
    after = {
        i: causes.get(i, "regressed") for i, status in statuses.items() if status == "unlearned"
    }
    ids = sorted(statuses, key=lambda i: (i not in causes, i not in after))
    columns = {
        "sample_id": ids,
        "cause": [after.get(i) for i in ids],
        "status": [statuses[i] for i in ids],
        "before": [verdicts[i].status for i in ids],
        "stage": [before.context.samples[i].stage for i in ids],
    }
    return pa.table(columns, schema=pa.schema([(name, pa.string()) for name in columns]))


def _read(experiment: Experiment, run_id: str) -> _Trained:
    """The status of every sample after the trial in a run, by id, and what its model answers."""
    scores = runs.read_table(run_id, "scores.parquet")
    judged = verdict_table(scores, ["base", "after"], experiment.scoring.preset, experiment.seed)
    statuses = {v.sample_id: v.status for v in to_rows(judged, Verdict)}
    return _Trained(statuses, answers_from_table(runs.read_table(run_id, "answers.parquet")))
