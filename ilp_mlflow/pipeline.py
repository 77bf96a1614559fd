"""The verbs: train, diagnose, mitigate, report. Each reads what the one before logged to MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from ilp_mlflow import run_log
from ilp_mlflow.core import config, plugin_loader
from ilp_mlflow.core.config import Experiment
from ilp_mlflow.core.errors import StepFailed, TrackingError
from ilp_mlflow.core.interfaces import Context, Mitigation
from ilp_mlflow.core.terminal.progress import task
from ilp_mlflow.core.training_log import TrainingLog
from ilp_mlflow.core.values import (
    Checkpoint,
    Diagnosis,
    Outcome,
    Report,
    Sample,
    Stage,
    as_json,
    to_rows,
    to_table,
)
from ilp_mlflow.data.held_out import load_held_out, read_held_out
from ilp_mlflow.data.trainer_logs import read_folder_log
from ilp_mlflow.diagnosis.context import TRAINING_TABLES, build_context, read_facts, read_logs
from ilp_mlflow.diagnosis.diagnose import diagnose_and_log, log_diagnoses
from ilp_mlflow.diagnosis.faults.find import find_faults
from ilp_mlflow.mitigation import search
from ilp_mlflow.mitigation.confirm.confirm import ConfirmOptions, confirm_causes
from ilp_mlflow.mitigation.search import SearchOptions, SearchResult
from ilp_mlflow.report.build import build_report
from ilp_mlflow.report.html import render_html
from ilp_mlflow.report.sentences import diagnosis_sentence
from ilp_mlflow.report.summary import markdown_summary
from ilp_mlflow.report.token_view import read_tokens
from ilp_mlflow.scoring.checkpoints import choose_wrong_options
from ilp_mlflow.scoring.judged import score_and_judge
from ilp_mlflow.scoring.models import weight_facts
from ilp_mlflow.scoring.models.tokenization import read_tokenization
from ilp_mlflow.scoring.rows_of_copies import give_rows_to_sources, stack_as_in_copies
from ilp_mlflow.scoring.stacked_adapters import settle_adapters
from ilp_mlflow.scoring.verdicts.judgements import read_judges
from ilp_mlflow.scoring.verdicts.unscored import check_any_scored, group_unscored
from ilp_mlflow.tracking import model_registry, projects, runs
from ilp_mlflow.training.accounts.row_account import RowAccount, account_rows
from ilp_mlflow.training.preflight import check_experiment, check_trained_elsewhere
from ilp_mlflow.training.stage import train_and_register, training_digest


def run(experiment: Experiment, source: Path, run_id: str | None = None) -> Report:
    """The whole experiment: train, diagnose, mitigate, report.

    `source` is the experiment's file. With `run_id` that run goes on: what is finished below it is
    not trained again. Raises IlpError, and StepFailed when only mitigations failed: the rest is
    logged then.
    """
    failure = None
    run_id = train(experiment, source, run_id)
    with runs.start(experiment.name, "experiment", run_id=run_id):
        diagnose(experiment, run_id)
        try:
            mitigate(experiment, run_id, source)
        except StepFailed as error:
            # The report has what came of the other mitigations.
            failure = str(error)
        report = make_report(experiment, run_id)
    if failure:
        raise StepFailed(failure, report)
    return report


def run_elsewhere(experiment: Experiment, checkpoints: Sequence[Checkpoint]) -> Report:
    """All that can be said of models trained elsewhere: adopt, diagnose, report.

    `checkpoints` are these models, base first. Raises IlpError.
    """
    run_id, experiment = adopt(experiment, checkpoints)
    diagnose(experiment, run_id)
    return make_report(experiment, run_id)


def train(experiment: Experiment, source: Path, run_id: str | None = None) -> str:
    """Train and register every stage in order; return the parent run's id.

    `source` is the experiment's file. With `run_id` that run goes on: a stage that is finished
    below it is not trained again, unless it, its rows or the model it starts from are others now.
    All that can be checked is checked before a run is started. Raises IlpError, ConfigError also
    when `run_id` is a run of something else.
    """
    with task("check data, options and model"):
        stages = check_experiment(experiment)
    if run_id:
        run_log.check_same_experiment(experiment, run_id)
    with runs.start(experiment.name, "experiment", run_id=run_id) as run_id:
        run_log.log_experiment(run_id, experiment, stages)
        _write_held_out(experiment, stages, run_id)
        with task("register the base model"):
            base_uri = model_registry.register_base(experiment.model, run_id)
        checkpoints = [Checkpoint(name="base", model_uri=base_uri)]
        stage_runs = []
        with task("stages", len(stages)) as advance:
            for stage in stages:
                parent_uri = checkpoints[-1].model_uri
                stage_run = _train_stage(experiment, stage, parent_uri, run_id, source)
                checkpoints += runs.read_checkpoints(stage_run)
                stage_runs.append(stage_run)
                advance(1)
        runs.write(run_id, "checkpoints.json", as_json(checkpoints))
        for name in (*TRAINING_TABLES, "accounts"):
            tables = [runs.read_table(stage_run, f"{name}.parquet") for stage_run in stage_runs]
            runs.write(run_id, f"{name}.parquet", pa.concat_tables(tables))
        logs: list[TrainingLog] = []
        for stage_run in stage_runs:
            logs += read_logs(stage_run)
        runs.write(run_id, "training_logs.json", as_json(logs))
        runs.log(run_id, tags={"ilp.trained": "true"})
    return run_id


def _write_held_out(experiment: Experiment, stages: Sequence[Stage], run_id: str) -> None:
    """Log which held-out rows the stages train, where there are any."""
    rows = read_held_out(experiment, stages)
    if rows is not None:
        runs.write(run_id, "held_out.json", rows.model_dump_json())


def _train_stage(
    experiment: Experiment, stage: Stage, parent_uri: str, run_id: str, source: Path
) -> str:
    """Train a stage in a child run, unless a finished one has; return the child's id."""
    # Of all that training depends on: whatever changes, the stage is trained again.
    digest = training_digest(experiment, stage, parent_uri)
    finished = runs.find_finished(run_id, {"ilp.kind": "stage", "ilp.training": digest})
    if finished:
        return finished
    if experiment.launch == "project":
        return _launch_stage(experiment, stage, parent_uri, source)
    with runs.start(stage.name, "stage", parent=run_id) as child:
        train_and_register(experiment, stage, parent_uri, child)
    return child


def _launch_stage(experiment: Experiment, stage: Stage, parent_uri: str, source: Path) -> str:
    """Train a stage as an MLflow project run; return its id."""
    parameters = {
        "experiment": str(source),
        "stage": stage.name,
        "model": parent_uri,
        "seed": str(experiment.seed),
    }
    launched = projects.launch(
        "stage", parameters, stage.name, experiment.backend, experiment.backend_config
    )
    return launched.wait()


def adopt(experiment: Experiment, checkpoints: Sequence[Checkpoint]) -> tuple[str, Experiment]:
    """Log models trained elsewhere in place of `train`; return the run's id and the experiment.

    `checkpoints` are these models, base first. Rows of a checkpoint that is a copy of the one
    before it become rows of that one, in the experiment, too. All that can be checked is checked
    before a run is started. Raises IlpError.
    """
    with task("check data, options and models"):
        stages = check_trained_elsewhere(experiment, checkpoints)
    locations = {c.name: c.model_uri for c in checkpoints}
    copies = weight_facts.find_copies(model_registry.resolve_all(locations))
    experiment, stages = give_rows_to_sources(experiment, stages, copies)
    samples_by_stage = {stage.name: stage.samples for stage in stages}
    checkpoints = settle_adapters(
        stack_as_in_copies(checkpoints, copies),
        samples_by_stage,
        experiment.scoring,
        experiment.seed,
        experiment.tokenizer,
    )
    with task("account of the rows"):
        accounts = _account_elsewhere(experiment, stages, checkpoints)
    parts = model_registry.resolve_all({c.name: c.model_uri for c in checkpoints})
    facts = weight_facts.read_weight_facts(parts)
    apart = weight_facts.find_apart(parts)
    facts = facts.model_copy(update={"copies": tuple(copies), "apart": apart})
    logs = _logs_elsewhere(stages, checkpoints)
    with runs.start(experiment.name, "experiment") as run_id:
        run_log.log_experiment(run_id, experiment, stages)
        _write_held_out(experiment, stages, run_id)
        runs.write(run_id, "checkpoints.json", as_json(checkpoints))
        runs.write(run_id, "accounts.parquet", to_table(accounts, RowAccount))
        runs.write(run_id, "weights.json", facts.model_dump_json(indent=1))
        runs.write(run_id, "training_logs.json", as_json(logs))
        runs.log(run_id, tags={"ilp.trained": "elsewhere"})
    return run_id, experiment


def _account_elsewhere(
    experiment: Experiment, stages: Sequence[Stage], checkpoints: Sequence[Checkpoint]
) -> list[RowAccount]:
    """Accounts of the samples of models trained elsewhere, as far as they can be known.

    They are as the last model reads its rows, with the answer in the loss and nothing cut.
    """
    base, last = checkpoints[0].model_uri, checkpoints[-1].model_uri
    parts = model_registry.resolve_parts(last, base)
    tokenization = read_tokenization(
        parts, experiment.tokenizer, model_registry.resolve_parts(base)
    )
    samples = [sample for stage in stages for sample in stage.samples]
    accounts = account_rows(samples, tokenization, {"max_length": None})
    return [account.model_copy(update={"assumed": True}) for account in accounts]


def _logs_elsewhere(
    stages: Sequence[Stage], checkpoints: Sequence[Checkpoint]
) -> list[TrainingLog]:
    """What trainers left in the folders of the stages' models."""
    location_by_name = {checkpoint.name: checkpoint.model_uri for checkpoint in checkpoints}
    logs = []
    for stage in stages:
        log = read_folder_log(stage.name, location_by_name[stage.name])
        if log is not None:
            logs.append(log)
    return logs


def diagnose(
    experiment: Experiment, run_id: str, confirm: ConfirmOptions | None = None
) -> list[Diagnosis]:
    """Score every sample under every checkpoint of a run, judge it, and say why it is unlearned.

    With `confirm`, causes of some samples are tried out in small trainings once all of that is
    logged; an interrupt leaves the diagnosis without them. A diagnostic that raises is reported on
    the run and left out. Raises IlpError, also when no sample can be scored under the last
    checkpoint: the run is FAILED then; and with `confirm` where models were trained elsewhere.
    """
    if confirm:
        check_can_confirm(run_id)
    read_judges(experiment.scoring)
    plugins = plugin_loader.configure("diagnostic", experiment.diagnostics)
    samples = runs.read_samples(run_id)
    checkpoints = runs.read_checkpoints(run_id)
    preset, seed = experiment.scoring.preset, experiment.seed
    with runs.start(experiment.name, "experiment", run_id=run_id):
        judgements = _score(experiment, run_id, samples, checkpoints)
        _write_weight_facts(run_id, checkpoints)
        context = build_context(experiment, samples, checkpoints, run_id)
        faults = find_faults(read_facts(run_id, context, experiment.tokenizer))
        log = partial(
            diagnose_and_log,
            run_id,
            plugins,
            context,
            judgements,
            preset,
            faults=faults,
            max_wrong=experiment.max_wrong,
        )
        # Each diagnosis gets a child, so that earlier ones stay. A run that is itself a child gets
        # none: the UI shows two levels.
        if runs.parent_of(run_id):
            diagnoses, _ = log()
            return _confirm(experiment, run_id, context, diagnoses, confirm)
        with runs.start("diagnosis", "diagnosis", parent=run_id) as child:
            diagnoses, _ = log(beside=child)
            _note_diagnoses(child, diagnoses, context)
            runs.log(child, params={"ilp.preset": preset, "ilp.seed": seed})
            run_log.log_data(child, experiment, context.stages, "diagnosis")
            diagnoses = _confirm(experiment, run_id, context, diagnoses, confirm, child)
    return diagnoses


def _note_diagnoses(child: str, diagnoses: Sequence[Diagnosis], context: Context) -> None:
    """Describe a diagnosis's run by what was found."""
    unscored = group_unscored(context.verdicts.values())
    note = diagnosis_sentence(diagnoses, len(context.samples), unscored)
    runs.log(child, tags={"mlflow.note.content": note})


def check_can_confirm(run_id: str) -> None:
    """Raise TrackingError where causes cannot be tried out: nobody knows how to train again."""
    if runs.tags(run_id).get("ilp.trained") != "true":
        raise TrackingError(
            f"run {run_id} holds models trained elsewhere, so no cause can be tried out in a small "
            "training; leave --confirm out, or train here ('ilp train --help')"
        )


def _confirm(
    experiment: Experiment,
    run_id: str,
    context: Context,
    diagnoses: list[Diagnosis],
    options: ConfirmOptions | None,
    child: str | None = None,
) -> list[Diagnosis]:
    """The diagnoses, in place of those on the run once causes were tried out."""
    if options is None:
        return diagnoses
    confirmed = confirm_causes(experiment, run_id, context, diagnoses, options)
    if confirmed is None:
        return diagnoses
    log_diagnoses(run_id, confirmed, context, runs.read_table(run_id, "judgements.parquet"), child)
    if child:
        _note_diagnoses(child, confirmed, context)
    return confirmed


def _write_weight_facts(run_id: str, checkpoints: Sequence[Checkpoint]) -> None:
    """Log what the weights of checkpoints show, where that was not done when they were adopted."""
    if not runs.has(run_id, "weights.json"):
        parts = model_registry.resolve_all({c.name: c.model_uri for c in checkpoints})
        facts = weight_facts.read_weight_facts(parts)
        runs.write(run_id, "weights.json", facts.model_dump_json(indent=1))


def _score(
    experiment: Experiment,
    run_id: str,
    samples: Sequence[Sample],
    checkpoints: Sequence[Checkpoint],
) -> pa.Table:
    """Judgements of all samples under all checkpoints, logged with the scores they go by."""
    scoring, seed, tokenizer = experiment.scoring, experiment.seed, experiment.tokenizer
    locations = {c.name: c.model_uri for c in checkpoints}
    wrong = choose_wrong_options(samples, locations, scoring, seed, tokenizer)
    judged = score_and_judge(
        samples,
        wrong,
        locations,
        scoring,
        seed,
        tokenizer,
        controls=load_held_out(experiment),
    )
    # Before anything is logged: a run without a verdict must not look diagnosed.
    check_any_scored(judged.verdicts, checkpoints[-1].name)
    options = {"sample_id": list(wrong), "wrong": [list(texts) for texts in wrong.values()]}
    runs.write(run_id, "options.parquet", pa.table(options))
    # With the rules of this diagnosis: what comes after it goes by them.
    runs.write(run_id, "experiment.yaml", config.dump(experiment))
    runs.write(run_id, "scores.parquet", judged.scores)
    runs.write(run_id, "tokens.parquet", judged.scored.tokens)
    runs.write(run_id, "answer_texts.parquet", judged.scored.answer_texts)
    runs.write(run_id, "first_choices.parquet", judged.scored.first_choices)
    runs.write(run_id, "judgements.parquet", judged.judgements)
    runs.write(run_id, "self_check.json", as_json(judged.scored.checks))
    # Earlier outcomes were against other verdicts.
    runs.write(run_id, "outcomes.json", "[]")
    runs.write(run_id, "requests.json", "{}")
    return judged.judgements


def mitigate(
    experiment: Experiment, run_id: str, source: Path, wanted: SearchOptions | None = None
) -> list[Outcome]:
    """Try mitigations, compare all samples before and after, and register the best model.

    Each has a child run of its own; one that raises fails alone, and StepFailed is raised when the
    others are done. With `wanted.only`, outcomes of others stay. Raises IlpError, also when the
    models were trained elsewhere: nobody knows how, so there is nothing to compare with.
    """
    wanted = wanted or SearchOptions()
    if runs.tags(run_id).get("ilp.trained") != "true":
        raise TrackingError(
            f"run {run_id} holds models trained elsewhere, so no mitigation can be tried; "
            "see 'ilp train --help'"
        )
    options_by_name = _mitigation_options(experiment, wanted)
    chosen = wanted.only or tuple(options_by_name)
    plugins = plugin_loader.configure(
        "mitigation", {name: o for name, o in options_by_name.items() if name in chosen}
    )
    if wanted.alone:
        # The run of this process is the mitigation's own; whoever launched it logs what came of it.
        result = _search(experiment, run_id, plugins, source, wanted)
    else:
        with runs.start(experiment.name, "experiment", run_id=run_id):
            result = _search(experiment, run_id, plugins, source, wanted)
            if wanted.plan == "each":
                run_log.log_mitigations(run_id, options_by_name, wanted)
            # What was not tried again stays as it was.
            if wanted.only or not result.outcomes:
                result = run_log.add_earlier(result, run_id)
            run_log.log_outcomes(experiment, run_id, result)
    if result.failed:
        raise StepFailed("; ".join(result.failed))
    return result.outcomes


def _mitigation_options(experiment: Experiment, wanted: SearchOptions) -> dict[str, dict[str, Any]]:
    """Options by name of the experiment's mitigations, and of those that `wanted.only` adds.

    Where the experiment names none, all that can be used may be composed.
    """
    options_by_name = dict(experiment.mitigations)
    if not options_by_name and wanted.plan == "auto":
        options_by_name = {name: {} for name in plugin_loader.usable("mitigation")}
    for name in wanted.only:
        options_by_name.setdefault(name, {})
    return options_by_name


def _search(
    experiment: Experiment,
    run_id: str,
    plugins: Mapping[str, Mitigation],
    source: Path,
    wanted: SearchOptions,
) -> SearchResult:
    """Try mitigations in the way that is wanted."""
    if experiment.launch == "project" and wanted.plan == "each" and not wanted.alone:
        return search.try_in_projects(experiment, run_id, list(plugins), source, wanted.jobs)
    baseline = search.read_baseline(experiment, run_id, runs.read_samples(run_id))
    if wanted.plan == "each":
        return search.try_each(plugins, baseline, wanted)
    return search.try_composed(plugins, baseline, wanted)


def make_report(experiment: Experiment, run_id: str) -> Report:
    """Put together what a run found, and log it as `ilp/report.html` and `ilp/report.json`.

    Its summary becomes the run's description. Raises TrackingError.
    """
    with task("report", 4) as advance:
        samples = runs.read_samples(run_id)
        checkpoints = runs.read_checkpoints(run_id)
        advance(1)
        report = build_report(experiment, run_id, samples, checkpoints)
        advance(1)
        with runs.start(experiment.name, "experiment", run_id=run_id):
            runs.log(run_id, tags={"mlflow.note.content": _description(report)})
            runs.write(run_id, "report.json", report.model_dump_json(indent=1))
            advance(1)
            accounts = _read_accounts(run_id)
            shown = [v.sample_id for v in report.verdicts if v.status != "learned"]
            tokens = read_tokens(run_id, shown)
            page = render_html(report, {s.id: s for s in samples}, accounts, tokens)
            runs.write(run_id, "report.html", page)
            advance(1)
    return report


def _read_accounts(run_id: str) -> dict[str, RowAccount]:
    """What training made of every sample, by id."""
    table = runs.read_table(run_id, "accounts.parquet")
    return {account.sample_id: account for account in to_rows(table, RowAccount)}


def _description(report: Report) -> str:
    """The summary, behind what the run's description said before it was ours."""
    foreword = runs.tags(report.run_id).get("ilp.foreword")
    summary = markdown_summary(report)
    return f"{foreword}\n\n{summary}" if foreword else summary
