"""A mitigation on trial: its plan and a control, trained from one checkpoint and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ilp_mlflow.core.config import Experiment
from ilp_mlflow.core.interfaces import Context
from ilp_mlflow.core.values import (
    Checkpoint,
    Diagnosis,
    Outcome,
    Plan,
    Stage,
    Status,
    Unscored,
    as_json,
    unlearned_share,
)
from ilp_mlflow.diagnosis.attribution import UNEXPLAINED
from ilp_mlflow.diagnosis.diagnose import UI_ROWS
from ilp_mlflow.mitigation.outcome import Arm, Before, measure_effect, outcome_sentence
from ilp_mlflow.mitigation.plans import Trial, plan_trials
from ilp_mlflow.mitigation.side_effects import (
    Answers,
    Questions,
    answers_to_table,
    ask_questions,
    guard_outcome,
)
from ilp_mlflow.scoring.judged import JudgedSamples, score_and_judge
from ilp_mlflow.scoring.models import loading
from ilp_mlflow.scoring.verdicts.unscored import (
    check_any_scored,
    count_unscored,
    group_unscored,
)
from ilp_mlflow.tracking import model_registry, runs
from ilp_mlflow.tracking.dataset_inputs import log_dataset
from ilp_mlflow.training.stage import fit_stage

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Baseline:
    """A diagnosed run, which every trial is compared with."""

    experiment: Experiment
    """Its settings."""
    run_id: str
    """The run; trials are logged below it."""
    diagnoses: Sequence[Diagnosis]
    """Of every unlearned sample."""
    context: Context
    """What is known of the run."""
    questions: Questions
    """What all models are asked beyond the samples."""
    answers: Answers
    """How its last checkpoint answers them."""

    @property
    def before(self) -> Before:
        """The samples under the last checkpoint."""
        statuses = {i: verdict.status for i, verdict in self.context.verdicts.items()}
        causes = {d.verdict.sample_id: d.cause or UNEXPLAINED for d in self.diagnoses}
        return Before(statuses, causes)


@dataclass(frozen=True)
class TrialResult:
    """What came of a trial: its model, and what that does."""

    run_id: str
    """The MLflow run of the trial."""
    model_uri: str
    """The model after the last stage."""
    tokens: float
    """Tokens trained on."""
    seconds: float
    """Training time."""
    statuses: Mapping[str, Status]
    """Status of every sample, by id."""
    unscored: tuple[Unscored, ...]
    """Why samples are not scored."""
    answers: Answers
    """How the model answers the questions beyond the samples."""

    @property
    def unlearned_rate(self) -> float | None:
        """Share 0..1 of the scored samples that are unlearned; None where none is scored."""
        return unlearned_share(list(self.statuses.values()))


@dataclass(frozen=True)
class _Trained:
    """A model that was trained."""

    model_uri: str
    """The model after the last stage."""
    tokens: float
    """Tokens trained on."""
    seconds: float
    """Training time."""


def run_trial(name: str, plan: Plan, baseline: Baseline, run_id: str) -> Outcome:
    """Train a mitigation's plan in the run `run_id` and its control beside it, and compare them.

    `name` is the mitigation's; both runs are children of the baseline's. What a finished child has
    trained before is not trained again. Raises PluginError for a plan that cannot be tried, and
    IlpError.
    """
    treatment, control_trial = plan_trials(name, plan, baseline.context)
    # the control first: it may be the one that fails, and other mitigations share it
    control = None
    if control_trial != treatment:
        control = _run_control(control_trial, baseline)
    treated = _train(name, treatment, baseline, run_id)
    outcome = _compare(name, plan, baseline, treated, control)

    model = model_registry.model_id(outcome.model_uri)
    tags = {"ilp.mitigation": name, "mlflow.note.content": outcome_sentence(outcome)}
    metrics = outcome_metrics(outcome, baseline.context)
    runs.log(run_id, metrics=metrics, tags=tags, model=model)
    # step 0 has the share before
    after = _metrics_after(outcome.unlearned_rate, outcome.unscored_reasons, baseline)
    runs.log(run_id, metrics=after, step=1, model=model)
    runs.write(run_id, "outcome.json", outcome.model_dump_json(indent=2))
    return outcome


def _compare(
    name: str, plan: Plan, baseline: Baseline, treated: TrialResult, control: TrialResult | None
) -> Outcome:
    """The outcome of a mitigation, from what came of its plan and of its control."""
    treated_arm = Arm(treated.statuses, treated.answers.held, plan.dropped)
    control_arm = None
    if control is not None:
        # a plan names what it drops, a control does not
        dropped_by_control = _dropped(plan.control or (), baseline.context)
        control_arm = Arm(control.statuses, control.answers.held, dropped_by_control)
    seed = baseline.experiment.seed
    effect = measure_effect(baseline.before, plan.targets, treated_arm, control_arm, seed)
    control_answers = control.answers if control is not None else None
    on_accelerator = loading.pick_device("auto") != "cpu"
    return Outcome(
        mitigation=name,
        run_id=treated.run_id,
        targets=effect.targets,
        recovered=effect.recovered,
        still=effect.still,
        regressed=effect.regressed,
        left_out=effect.left_out,
        unscored=effect.unscored,
        unscored_by_control=effect.unscored_by_control,
        unscored_before=effect.unscored_before,
        unscored_reasons=treated.unscored,
        control_run_id=control.run_id if control is not None else None,
        causes=effect.causes,
        net_recovery=effect.net_recovery,
        net_interval=effect.net_interval,
        p_value=effect.p_value,
        regressed_by_control=effect.regressed_by_control,
        guard=guard_outcome(baseline.answers, treated.answers, control_answers),
        model_uri=treated.model_uri,
        unlearned_rate=effect.unlearned_rate,
        tokens=int(treated.tokens),
        control_tokens=int(control.tokens) if control is not None else None,
        seconds=treated.seconds,
        accelerator_hours=treated.seconds / 3600 if on_accelerator else None,
    )


def _dropped(stages: Sequence[Stage], context: Context) -> frozenset[str]:
    """Ids of the samples that are in none of the stages; none where there are no stages."""
    if not stages:
        return frozenset()
    trained = {row.id for stage in stages for row in stage.samples}
    return frozenset(context.samples) - trained


def outcome_metrics(outcome: Outcome, context: Context) -> dict[str, float]:
    """The metrics of a mitigation's run: its number of targets, and shares 0..1.

    `recovered` of the unlearned samples, `regressed` of the learned ones, without those that have
    no score now; and where there are any, `held` of those asked in other words, `guard_lost` of the
    guard set, `net_recovery` of targets, and `unscored_targets`, the number of those without a
    score under the mitigation or its control.
    """
    n_unlearned = len(outcome.recovered) + len(outcome.still)
    unscored = {*outcome.unscored, *outcome.unscored_by_control}
    learned = [i for i, verdict in context.verdicts.items() if verdict.status == "learned"]
    n_learned = len(set(learned).difference(outcome.unscored))
    metrics = {"targets": float(len(outcome.targets))}
    if n_unlearned or not outcome.unscored:
        metrics["recovered"] = len(outcome.recovered) / max(1, n_unlearned)
    if n_learned or not outcome.unscored:
        metrics["regressed"] = len(outcome.regressed) / max(1, n_learned)
    n_unscored_targets = len(unscored.intersection(outcome.targets))
    if n_unscored_targets:
        metrics["unscored_targets"] = n_unscored_targets
    n_paraphrased = sum(tally.paraphrased for tally in outcome.causes.values())
    if n_paraphrased:
        n_held = sum(tally.held for tally in outcome.causes.values())
        metrics["held"] = n_held / n_paraphrased
    if outcome.guard:
        metrics["guard_lost"] = outcome.guard.lost / outcome.guard.right
    if outcome.net_recovery is not None:
        metrics["net_recovery"] = outcome.net_recovery
    return metrics


def _run_control(trial: Trial, baseline: Baseline) -> TrialResult:
    """What comes of a control: of a finished run below the baseline's, or trained now."""
    name = f"control {trial.digest[:6]}"
    labels = {"ilp.kind": "control", "ilp.trial": trial.digest}
    finished = runs.find_finished(baseline.run_id, labels)
    if finished:
        result = _train(name, trial, baseline, finished)
        after = _metrics_after(result.unlearned_rate, result.unscored, baseline)
        runs.log_changed(finished, after, step=1)
        return result
    with runs.start(name, "control", parent=baseline.run_id) as run_id:
        result = _train(name, trial, baseline, run_id)
        model = model_registry.model_id(result.model_uri)
        after = _metrics_after(result.unlearned_rate, result.unscored, baseline)
        runs.log(run_id, metrics=after, step=1, model=model)
    return result


def _metrics_before(baseline: Baseline) -> dict[str, float]:
    """What a trial's run says of the samples before it, see `_unlearned_metrics`."""
    verdicts = list(baseline.context.verdicts.values())
    share = unlearned_share([verdict.status for verdict in verdicts])
    return _unlearned_metrics(share, group_unscored(verdicts))


def _metrics_after(
    share: float | None, unscored: Sequence[Unscored], baseline: Baseline
) -> dict[str, float]:
    """What a trial's run says of the samples after it, see `_unlearned_metrics`."""
    metrics = _unlearned_metrics(share, unscored)
    # a metric keeps its last value: what was unscored before and is scored now becomes 0
    if "unscored" in _metrics_before(baseline):
        metrics.setdefault("unscored", 0.0)
    return metrics


def _unlearned_metrics(share: float | None, unscored: Sequence[Unscored]) -> dict[str, float]:
    """The metrics `unlearned_rate`, where there is one, and `unscored`, where that is not 0."""
    metrics = {}
    if share is not None:
        metrics["unlearned_rate"] = share
    if unscored:
        metrics["unscored"] = float(count_unscored(unscored))
    return metrics


def _train(name: str, trial: Trial, baseline: Baseline, run_id: str) -> TrialResult:
    """Train a trial in the run `run_id`, unless a finished run did; score and ask the model."""
    experiment, context = baseline.experiment, baseline.context
    finished = runs.find_finished(baseline.run_id, {"ilp.trial": trial.digest})
    # the start of a control that is taken up again is on its run already
    if finished != run_id:
        _log_start(name, trial, baseline, run_id)
    trained = _read_trained(finished) if finished else _fit_stages(name, trial, experiment, run_id)
    checkpoint = Checkpoint(name="after", model_uri=trained.model_uri, run_id=run_id)
    runs.write(run_id, "checkpoints.json", as_json([checkpoint]))

    # the model of a finished run, too: it may be asked other questions now, and scores are cached
    judged = _score(trained.model_uri, baseline)
    runs.write(run_id, "scores.parquet", judged.scores)
    runs.write(run_id, "judgements.parquet", judged.judgements)
    base_uri = context.checkpoints[0].model_uri
    answers = ask_questions(baseline.questions, base_uri, trained.model_uri, experiment)
    runs.write(run_id, "answers.parquet", answers_to_table(answers))

    verdicts = judged.verdicts
    check_any_scored(verdicts, "after")
    statuses = {verdict.sample_id: verdict.status for verdict in verdicts}
    runs.write_ui_table(run_id, "diagnosis.json", _ui_table(baseline, statuses))
    # the tag says that the trial is done, so it comes last
    metrics = {"tokens": trained.tokens, "seconds": trained.seconds}
    runs.log_changed(run_id, metrics, tags={"ilp.trial": trial.digest})
    return TrialResult(
        run_id=run_id,
        model_uri=trained.model_uri,
        tokens=trained.tokens,
        seconds=trained.seconds,
        statuses=statuses,
        unscored=group_unscored(verdicts),
        answers=answers,
    )


def _log_start(name: str, trial: Trial, baseline: Baseline, run_id: str) -> None:
    """Log what a trial starts from: share of unlearned samples, parameters, model and data."""
    n_rows = sum(len(stage.samples) for stage in trial.stages)
    params = {"ilp.mitigation": name, "ilp.rows": n_rows, "ilp.start": trial.start.name}
    # first of its metrics, since MLflow's compare page takes the first one for its axis
    runs.log(run_id, metrics=_metrics_before(baseline), params=params)
    model_registry.log_model_inputs(run_id, [trial.start.model_uri])
    for stage in trial.stages:
        log_dataset(run_id, stage.name, stage.samples, "training")


def _read_trained(run_id: str) -> _Trained:
    """What a finished run has trained."""
    metrics = runs.metrics(run_id)
    model_uri = runs.read_checkpoints(run_id)[-1].model_uri
    return _Trained(model_uri, metrics["tokens"], metrics["seconds"])


def _fit_stages(name: str, trial: Trial, experiment: Experiment, run_id: str) -> _Trained:
    """Train the stages of a trial, one after the other, and store the models."""

    def store(stage_name: str, folder: str) -> str:
        return model_registry.store(f"{name} {stage_name}", folder, run_id)

    model_uri, tokens, seconds = trial.start.model_uri, 0.0, 0.0
    for stage in trial.stages:
        checkpoints, trained_stage = fit_stage(experiment, stage, model_uri, run_id, store)
        model_uri = checkpoints[-1].model_uri
        tokens += trained_stage.tokens
        seconds += trained_stage.seconds
    return _Trained(model_uri, tokens, seconds)


def _score(model_uri: str, baseline: Baseline) -> JudgedSamples:
    """All samples scored and judged under a model and the base."""
    # against the wrong options of the diagnosis, so that what changes is the model
    wrong_options = {}
    for row in runs.read_table(baseline.run_id, "options.parquet").to_pylist():
        wrong_options[row["sample_id"]] = row["wrong"]
    experiment, context = baseline.experiment, baseline.context
    uris = {"base": context.checkpoints[0].model_uri, "after": model_uri}
    return score_and_judge(
        list(context.samples.values()),
        wrong_options,
        uris,
        experiment.scoring,
        experiment.seed,
        experiment.tokenizer,
        controls=context.held_out,
    )


def _ui_table(baseline: Baseline, statuses: Mapping[str, Status]) -> pa.Table:
    """The first UI_ROWS samples, those before the others that are unlearned before or after.

    Each with its cause while it is unlearned (`regressed` for one that was learned before), and its
    statuses.
    """
    import pyarrow as pa

    before, samples = baseline.before, baseline.context.samples
    causes_after = {}
    for sample_id, status in statuses.items():
        if status == "unlearned":
            causes_after[sample_id] = before.causes.get(sample_id, "regressed")
    # False sorts before True
    ids = sorted(statuses, key=lambda i: (i not in before.causes, i not in causes_after))
    rows = []
    for sample_id in ids[:UI_ROWS]:
        row = {
            "sample_id": sample_id,
            "cause": causes_after.get(sample_id),
            "status": statuses[sample_id],
            "before": before.statuses[sample_id],
            "stage": samples[sample_id].stage,
        }
        rows.append(row)
    columns = ("sample_id", "cause", "status", "before", "stage")
    schema = pa.schema([(name, pa.string()) for name in columns])
    return pa.Table.from_pylist(rows, schema=schema)
