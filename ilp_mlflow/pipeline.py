"""The verbs: train, diagnose, mitigate, report. Each reads what the one before logged to MLflow."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from ilp_mlflow.core import config, plugin_loader
from ilp_mlflow.core.config import Experiment
from ilp_mlflow.core.errors import ConfigError, StepFailed, TrackingError
from ilp_mlflow.core.progress import task
from ilp_mlflow.core.values import Checkpoint, Diagnosis, Outcome, Report, Request, Stage, as_json
from ilp_mlflow.data.samples import samples_to_table
from ilp_mlflow.diagnosis.context import build_context
from ilp_mlflow.diagnosis.diagnose import diagnose_and_log
from ilp_mlflow.mitigation import search
from ilp_mlflow.mitigation.search import SearchOptions, SearchResult
from ilp_mlflow.report.build import build_report
from ilp_mlflow.report.html import render_html
from ilp_mlflow.report.summary import diagnosis_sentence, markdown_summary
from ilp_mlflow.scoring.checkpoints import choose_wrong_options, score_checkpoints
from ilp_mlflow.tracking import model_registry, projects, runs
from ilp_mlflow.tracking.dataset_inputs import log_dataset
from ilp_mlflow.training.preflight import check_experiment, check_trained_elsewhere
from ilp_mlflow.training.stage import stage_settings, train_and_register, training_digest


def run(experiment: Experiment, source: Path, run_id: str | None = None) -> Report:
    """The whole experiment: train, diagnose, mitigate, report. Raises IlpError, and StepFailed when the rest is logged.

    With `run_id` that run goes on: what is finished below it is not trained again.
    """
    run_id, failed = train(experiment, source, run_id), None
    with runs.start(experiment.name, "experiment", run_id=run_id):
        diagnose(experiment, run_id)
        try:
            mitigate(experiment, run_id, source)
        except StepFailed as error:
            failed = str(error)
        report = make_report(experiment, run_id)
    if failed:
        raise StepFailed(failed, report)
    return report


def run_elsewhere(experiment: Experiment, checkpoints: Sequence[Checkpoint]) -> Report:
    """What can be said of models trained elsewhere (`checkpoints`, base first): adopt, diagnose, report. Raises IlpError."""
    run_id = adopt(experiment, checkpoints)
    diagnose(experiment, run_id)
    return make_report(experiment, run_id)


def train(experiment: Experiment, source: Path, run_id: str | None = None) -> str:
    """Train and register every stage in order; return the parent run's id. `source` is the experiment's file.

    With `run_id` that run goes on: a stage that is finished below it is not trained again, unless it, its rows or the model it
    starts from are others now. All that can be checked is checked before a run is started. Raises IlpError, ConfigError also
    when `run_id` is a run of something else.
    """
    with task("check data, options and model"):
        stages = check_experiment(experiment)
    if run_id:
        _same(experiment, run_id)
    with runs.start(experiment.name, "experiment", run_id=run_id) as run_id:
        log_experiment(run_id, experiment, stages)
        with task("register the base model"):
            base = model_registry.register_base(experiment.model, run_id)
        checkpoints = [Checkpoint(name="base", model_uri=base)]
        exposures, signals = [], []
        with task("stages", len(stages)) as advance:
            for stage in stages:
                parent = checkpoints[-1].model_uri
                if done := runs.find_finished(
                    run_id,
                    {
                        "ilp.kind": "stage",
                        "ilp.training": training_digest(experiment, stage, parent),
                    },
                ):
                    child = done
                elif experiment.launch == "project":
                    parameters = {
                        "experiment": str(source),
                        "stage": stage.name,
                        "model": parent,
                        "seed": str(experiment.seed),
                    }
                    child = projects.launch(
                        "stage",
                        parameters,
                        stage.name,
                        experiment.backend,
                        experiment.backend_config,
                    ).wait()
                else:
                    with runs.start(stage.name, "stage", parent=run_id) as child:
                        train_and_register(experiment, stage, parent, child)
                checkpoints += runs.read_checkpoints(child)
                exposures.append(runs.read_table(child, "exposures.parquet"))
                signals.append(runs.read_table(child, "signals.parquet"))
                advance(1)
        runs.write(run_id, "checkpoints.json", as_json(checkpoints))
        runs.write(run_id, "exposures.parquet", pa.concat_tables(exposures))
        runs.write(run_id, "signals.parquet", pa.concat_tables(signals))
        runs.log(run_id, tags={"ilp.trained": "true"})
    return run_id


def adopt(experiment: Experiment, checkpoints: Sequence[Checkpoint]) -> str:
    """Log models trained elsewhere (`checkpoints`, base first) in place of `train`; return the run's id.

    All that can be checked is checked before a run is started. Raises IlpError.
    """
    with task("check data, options and models"):
        stages = check_trained_elsewhere(experiment, checkpoints)
    with runs.start(experiment.name, "experiment") as run_id:
        log_experiment(run_id, experiment, stages)
        runs.write(run_id, "checkpoints.json", as_json(checkpoints))
        runs.log(run_id, tags={"ilp.trained": "elsewhere"})
    return run_id


def diagnose(experiment: Experiment, run_id: str) -> list[Diagnosis]:
    """Score every sample under every checkpoint of a run, judge it, and ask the diagnostics why the unlearned ones failed.

    A diagnostic that raises is reported on the run and left out. Raises IlpError.
    """
    plugins = plugin_loader.configure("diagnostic", experiment.diagnostics)
    samples, checkpoints = runs.read_samples(run_id), runs.read_checkpoints(run_id)
    with runs.start(experiment.name, "experiment", run_id=run_id):
        locations = {c.name: c.model_uri for c in checkpoints}
        wrong = choose_wrong_options(
            samples, locations, experiment.scoring, experiment.seed, experiment.tokenizer
        )
        scores = score_checkpoints(
            samples, wrong, locations, experiment.scoring, experiment.seed, experiment.tokenizer
        )
        runs.write(
            run_id,
            "options.parquet",
            pa.table({"sample_id": list(wrong), "wrong": list(map(list, wrong.values()))}),
        )
        runs.write(
            run_id, "experiment.yaml", config.dump(experiment)
        )  # with the rules of this diagnosis
        runs.write(run_id, "scores.parquet", scores)
        runs.write(run_id, "outcomes.json", "[]")  # earlier ones were against other verdicts
        runs.write(run_id, "requests.json", "{}")
        context = build_context(experiment, samples, checkpoints, scores, run_id)
        rule = experiment.scoring.preset, experiment.seed
        top = runs.parent_of(run_id) is None  # below a child the UI would show a third
        own = (
            runs.start("diagnosis", "diagnosis", parent=run_id) if top else contextlib.nullcontext()
        )
        with own as child:
            found, _ = diagnose_and_log(run_id, plugins, context, *rule, beside=child)
            if child:
                said = diagnosis_sentence(found, len(samples))
                runs.log(
                    child,
                    params={"ilp.preset": rule[0], "ilp.seed": rule[1]},
                    tags={"mlflow.note.content": said},
                )
                _log_data(child, experiment, context.stages, "diagnosis")
    return found


def mitigate(
    experiment: Experiment, run_id: str, source: Path, wanted: SearchOptions | None = None
) -> list[Outcome]:
    """Try mitigations of the experiment, each in a child run, compare all samples before and after, and register the best model.

    One that raises fails its own child run; the others go on, then StepFailed is raised. With `wanted.only`, outcomes of others
    stay. Raises IlpError, also when the models were trained elsewhere: nobody knows how, so there is nothing to compare with.
    """
    wanted = wanted or SearchOptions()
    if runs.tags(run_id).get("ilp.trained") != "true":
        raise TrackingError(
            f"run {run_id} holds models trained elsewhere, so no mitigation can be tried; see 'ilp train --help'"
        )
    named = dict(experiment.mitigations) or (
        {name: {} for name in plugin_loader.usable("mitigation")} if wanted.plan == "auto" else {}
    )
    for name in wanted.only:
        named.setdefault(name, {})
    plugins = plugin_loader.configure(
        "mitigation", {n: o for n, o in named.items() if not wanted.only or n in wanted.only}
    )
    # alone, the run of this process is the mitigation's own
    with (
        contextlib.nullcontext()
        if wanted.alone
        else runs.start(experiment.name, "experiment", run_id=run_id)
    ):
        if experiment.launch == "project" and not wanted.alone and wanted.plan == "each":
            found = search.try_in_projects(experiment, run_id, list(plugins), source, wanted.jobs)
        else:
            known = search.read_baseline(experiment, run_id, runs.read_samples(run_id))
            attempt = search.try_each if wanted.plan == "each" else search.try_composed
            found = attempt(experiment, run_id, plugins, known, wanted)
        if (
            wanted.plan == "each" and not wanted.alone
        ):  # what was tried, with its options, also by --only
            logged = runs.read_experiment(None, run_id)
            tried = (logged.mitigations if wanted.only else {}) | named
            runs.write(
                run_id,
                "experiment.yaml",
                config.dump(logged.model_copy(update={"mitigations": tried})),
            )
        if not wanted.alone:
            _conclude(experiment, run_id, found, bool(wanted.only) or not found.outcomes)
    if found.failed:
        raise StepFailed("; ".join(found.failed))
    return found.outcomes


def _conclude(experiment: Experiment, run_id: str, found: SearchResult, add: bool) -> None:
    """Log what came of mitigations on the run, in place of earlier ones or, to `add`, beside them; register the best model."""
    if add:
        names = {o.mitigation for o in found.outcomes} | set(found.requests)
        earlier = [
            Outcome.model_validate(o) for o in json.loads(runs.read(run_id, "outcomes.json"))
        ]
        lacking = json.loads(runs.read(run_id, "requests.json"))
        found.outcomes[:0] = [o for o in earlier if o.mitigation not in names]
        found.requests = {
            n: Request.model_validate(r) for n, r in lacking.items() if n not in names
        } | found.requests
    runs.write(run_id, "outcomes.json", as_json(found.outcomes))
    runs.write(
        run_id,
        "requests.json",
        json.dumps({name: r.model_dump() for name, r in found.requests.items()}, indent=1),
    )
    for done in found.outcomes:
        one = runs.metrics(done.run_id)
        shared = {
            k: one[k]
            for k in ("recovered", "regressed", "net_recovery", "held", "guard_lost")
            if k in one
        }
        runs.log_changed(run_id, {f"{k}/{done.mitigation}": v for k, v in shared.items()})
    uri = search.register_best(experiment, found, run_id)
    if uri:
        runs.log(run_id, tags={"ilp.mitigated": uri})


def make_report(experiment: Experiment, run_id: str) -> Report:
    """Put together what a run found, and log it as `ilp/report.html` and `ilp/report.json`. Raises TrackingError."""
    with task("report", 4) as advance:
        samples, checkpoints = runs.read_samples(run_id), runs.read_checkpoints(run_id)
        advance(1)
        found = build_report(experiment, run_id, samples, checkpoints)
        advance(1)
        with runs.start(experiment.name, "experiment", run_id=run_id):
            foreword = (
                [text] if (text := runs.tags(run_id).get("ilp.foreword")) else []
            )  # what the run said before
            runs.log(
                run_id,
                tags={"mlflow.note.content": "\n\n".join([*foreword, markdown_summary(found)])},
            )
            runs.write(run_id, "report.json", found.model_dump_json(indent=1))
            advance(1)
            runs.write(run_id, "report.html", render_html(found, {s.id: s for s in samples}))
            advance(1)
    return found


def log_experiment(run_id: str, experiment: Experiment, stages: Sequence[Stage]) -> None:
    """Log on the run what an experiment is: its settings and its samples."""
    facts = {
        f"ilp.{s.name}.{k}": v
        for s in stages
        for k, v in stage_settings(s).items()
        if k != "seed" or v != experiment.seed
    }
    known = runs.params(run_id)  # what goes on may have changed: its stages' runs say how
    with task("log data", 3) as advance:
        runs.log(
            run_id, params=_facts(experiment) | {k: v for k, v in facts.items() if k not in known}
        )
        advance(1)
        _log_data(run_id, experiment, stages, "training")
        runs.write(run_id, "experiment.yaml", config.dump(experiment))
        advance(1)
        runs.write(
            run_id,
            "samples.parquet",
            samples_to_table(s for stage in stages for s in stage.samples),
        )
        advance(1)


def _facts(experiment: Experiment) -> dict[str, str]:
    """What a run says of its experiment once and for all, as MLflow keeps it."""
    facts = {
        "name": experiment.name,
        "model": experiment.model,
        "seed": experiment.seed,
        "preset": experiment.scoring.preset,
    }
    return {f"ilp.{name}": str(value) for name, value in facts.items()}


def _same(experiment: Experiment, run_id: str) -> None:
    """Raise ConfigError when a run is not of this experiment, or of another model, seed or preset."""
    was = runs.params(run_id)
    for name, now in _facts(experiment).items():
        if was.get(name) != now:
            has = (
                f"is of {name.removeprefix('ilp.')} {was[name]}"
                if name in was
                else "is not of an experiment"
            )
            raise ConfigError(
                f"run {run_id} {has}, this is {now}; leave out --run-id for a new run"
            )


def _log_data(run_id: str, experiment: Experiment, stages: Sequence[Stage], context: str) -> None:
    for stage, given in zip(stages, experiment.stages, strict=True):
        log_dataset(run_id, stage.name, stage.samples, context, given.data)
