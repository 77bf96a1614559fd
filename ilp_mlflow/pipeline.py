"""The verbs: train, diagnose, mitigate, report. Each reads what the one before logged to MLflow."""

from __future__ import annotations

import contextlib
import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa

from ilp_mlflow import (
    catalog,
    config,
    dataset,
    explain,
    measure,
    models,
    page,
    projects,
    registry,
    remedies,
    report,
    tracking,
    verdict,
)
from ilp_mlflow.config import Experiment, TrackingConfig
from ilp_mlflow.errors import ConfigError, StepFailed, TrackingError
from ilp_mlflow.preflight import preflight, preflight_trained
from ilp_mlflow.progress import task
from ilp_mlflow.recognition import recognition
from ilp_mlflow.remedies import Tried, Wanted
from ilp_mlflow.stage import digest, settings, train_and_register
from ilp_mlflow.types import (
    Checkpoint,
    Diagnosis,
    Outcome,
    Report,
    Request,
    Sample,
    Stage,
    Verdict,
    as_json,
    to_rows,
)

PACKAGES = ("ilp-mlflow", "mlflow", "torch", "transformers", "trl", "peft")
"""Those whose versions a report states."""


def run(experiment: Experiment, source: Path, run_id: str | None = None) -> Report:
    """The whole experiment: train, diagnose, mitigate, report. Raises IlpError, and StepFailed when the rest is logged.

    With `run_id` that run goes on: what is finished below it is not trained again.
    """
    run_id, failed = train(experiment, source, run_id), None
    with tracking.run(experiment.name, "experiment", run_id=run_id):
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
        stages = preflight(experiment)
    if run_id:
        _same(experiment, run_id)
    with tracking.run(experiment.name, "experiment", run_id=run_id) as run_id:
        log_experiment(run_id, experiment, stages)
        with task("register the base model"):
            base = catalog.register_base(experiment.model, models.digest, run_id)
        checkpoints = [Checkpoint(name="base", model_uri=base)]
        exposures, signals = [], []
        with task("stages", len(stages)) as advance:
            for stage in stages:
                parent = checkpoints[-1].model_uri
                if done := tracking.finished(run_id, {"ilp.kind": "stage", "ilp.training": digest(experiment, stage, parent)}):
                    child = done
                elif experiment.launch == "project":
                    parameters = {"experiment": str(source), "stage": stage.name, "model": parent, "seed": str(experiment.seed)}
                    child = projects.launch("stage", parameters, stage.name, experiment.backend, experiment.backend_config).wait()
                else:
                    with tracking.run(stage.name, "stage", parent=run_id) as child:
                        train_and_register(experiment, stage, parent, child)
                checkpoints += tracking.read_checkpoints(child)
                exposures.append(tracking.read_table(child, "exposures.parquet"))
                signals.append(tracking.read_table(child, "signals.parquet"))
                advance(1)
        tracking.write(run_id, "checkpoints.json", as_json(checkpoints))
        tracking.write(run_id, "exposures.parquet", pa.concat_tables(exposures))
        tracking.write(run_id, "signals.parquet", pa.concat_tables(signals))
        tracking.log(run_id, tags={"ilp.trained": "true"})
    return run_id


def adopt(experiment: Experiment, checkpoints: Sequence[Checkpoint]) -> str:
    """Log models trained elsewhere (`checkpoints`, base first) in place of `train`; return the run's id.

    All that can be checked is checked before a run is started. Raises IlpError.
    """
    with task("check data, options and models"):
        stages = preflight_trained(experiment, checkpoints)
    with tracking.run(experiment.name, "experiment") as run_id:
        log_experiment(run_id, experiment, stages)
        tracking.write(run_id, "checkpoints.json", as_json(checkpoints))
        tracking.log(run_id, tags={"ilp.trained": "elsewhere"})
    return run_id


def diagnose(experiment: Experiment, run_id: str) -> list[Diagnosis]:
    """Score every sample under every checkpoint of a run, judge it, and ask the diagnostics why the unlearned ones failed.

    A diagnostic that raises is reported on the run and left out. Raises IlpError.
    """
    plugins = registry.configured("diagnostic", experiment.diagnostics)
    samples, checkpoints = read_samples(run_id), tracking.read_checkpoints(run_id)
    with tracking.run(experiment.name, "experiment", run_id=run_id):
        locations = {c.name: c.model_uri for c in checkpoints}
        wrong = measure.wrong_answers(samples, locations, experiment.scoring, experiment.seed, experiment.tokenizer)
        scores = measure.score(samples, wrong, locations, experiment.scoring, experiment.seed, experiment.tokenizer)
        tracking.write(run_id, "options.parquet", pa.table({"sample_id": list(wrong), "wrong": list(map(list, wrong.values()))}))
        tracking.write(run_id, "experiment.yaml", config.dump(experiment))  # with the rules of this diagnosis
        tracking.write(run_id, "scores.parquet", scores)
        tracking.write(run_id, "outcomes.json", "[]")  # earlier ones were against other verdicts
        tracking.write(run_id, "requests.json", "{}")
        context = explain.context(experiment, samples, checkpoints, scores, run_id)
        rule = experiment.scoring.preset, experiment.seed
        top = tracking.parent_of(run_id) is None  # below a child the UI would show a third
        own = tracking.run("diagnosis", "diagnosis", parent=run_id) if top else contextlib.nullcontext()
        with own as child:
            found, _ = explain.conclude(run_id, plugins, context, *rule, beside=child)
            if child:
                said = report.diagnosed(found, len(samples))
                tracking.log(child, params={"ilp.preset": rule[0], "ilp.seed": rule[1]}, tags={"mlflow.note.content": said})
                _log_data(child, experiment, context.stages, "diagnosis")
    return found


def mitigate(experiment: Experiment, run_id: str, source: Path, wanted: Wanted | None = None) -> list[Outcome]:
    """Try mitigations of the experiment, each in a child run, compare all samples before and after, and register the best model.

    One that raises fails its own child run; the others go on, then StepFailed is raised. With `wanted.only`, outcomes of others
    stay. Raises IlpError, also when the models were trained elsewhere: nobody knows how, so there is nothing to compare with.
    """
    wanted = wanted or Wanted()
    if tracking.tags(run_id).get("ilp.trained") != "true":
        raise TrackingError(f"run {run_id} holds models trained elsewhere, so no mitigation can be tried; see 'ilp train --help'")
    named = dict(experiment.mitigations) or ({name: {} for name in registry.working("mitigation")} if wanted.plan == "auto" else {})
    for name in wanted.only:
        named.setdefault(name, {})
    plugins = registry.configured("mitigation", {n: o for n, o in named.items() if not wanted.only or n in wanted.only})
    # alone, the run of this process is the mitigation's own
    with contextlib.nullcontext() if wanted.alone else tracking.run(experiment.name, "experiment", run_id=run_id):
        if experiment.launch == "project" and not wanted.alone and wanted.plan == "each":
            found = remedies.side_by_side(experiment, run_id, list(plugins), source, wanted.jobs)
        else:
            known = remedies.before(experiment, run_id, read_samples(run_id))
            found = getattr(remedies, wanted.plan)(experiment, run_id, plugins, known, wanted)
        if wanted.plan == "each" and not wanted.alone:  # what was tried, with its options, also by --only
            logged = recorded(None, run_id)
            tried = (logged.mitigations if wanted.only else {}) | named
            tracking.write(run_id, "experiment.yaml", config.dump(logged.model_copy(update={"mitigations": tried})))
        if not wanted.alone:
            _conclude(experiment, run_id, found, bool(wanted.only) or not found.outcomes)
    if found.failed:
        raise StepFailed("; ".join(found.failed))
    return found.outcomes


def _conclude(experiment: Experiment, run_id: str, found: Tried, add: bool) -> None:
    """Log what came of mitigations on the run, in place of earlier ones or, to `add`, beside them; register the best model."""
    if add:
        names = {o.mitigation for o in found.outcomes} | set(found.requests)
        earlier = [Outcome.model_validate(o) for o in json.loads(tracking.read(run_id, "outcomes.json"))]
        lacking = json.loads(tracking.read(run_id, "requests.json"))
        found.outcomes[:0] = [o for o in earlier if o.mitigation not in names]
        found.requests = {n: Request.model_validate(r) for n, r in lacking.items() if n not in names} | found.requests
    tracking.write(run_id, "outcomes.json", as_json(found.outcomes))
    tracking.write(run_id, "requests.json", json.dumps({name: r.model_dump() for name, r in found.requests.items()}, indent=1))
    for done in found.outcomes:
        one = tracking.metrics(done.run_id)
        shared = {k: one[k] for k in ("recovered", "regressed", "net_recovery", "held", "guard_lost") if k in one}
        tracking.update(run_id, {f"{k}/{done.mitigation}": v for k, v in shared.items()})
    uri = remedies.register(experiment, found, run_id)
    if uri:
        tracking.log(run_id, tags={"ilp.mitigated": uri})


def make_report(experiment: Experiment, run_id: str) -> Report:
    """Put together what a run found, and log it as `ilp/report.html` and `ilp/report.json`. Raises TrackingError."""
    with task("report", 4) as advance:
        samples, checkpoints = read_samples(run_id), tracking.read_checkpoints(run_id)
        advance(1)
        found = _report(experiment, run_id, samples, checkpoints)
        advance(1)
        with tracking.run(experiment.name, "experiment", run_id=run_id):
            foreword = [text] if (text := tracking.tags(run_id).get("ilp.foreword")) else []  # what the run said before
            tracking.log(run_id, tags={"mlflow.note.content": "\n\n".join([*foreword, report.markdown(found)])})
            tracking.write(run_id, "report.json", found.model_dump_json(indent=1))
            advance(1)
            tracking.write(run_id, "report.html", page.html(found, {s.id: s for s in samples}))
            advance(1)
    return found


def _report(experiment: Experiment, run_id: str, samples: Sequence[Sample], checkpoints: Sequence[Checkpoint]) -> Report:
    scores = tracking.read_table(run_id, "scores.parquet")
    names, preset = [c.name for c in checkpoints], experiment.scoring.preset
    return Report(
        name=experiment.name,
        run_id=run_id,
        preset=preset,
        checkpoints=tuple(checkpoints),
        retention=verdict.retention(scores, {s.id: s.stage for s in samples}, names, preset, experiment.seed),
        recognition=recognition(scores, names),
        verdicts=tuple(to_rows(verdict.verdicts(scores, names, preset, experiment.seed), Verdict)),
        histories=verdict.histories(scores, names, preset, experiment.seed),
        diagnoses=tuple(json.loads(tracking.read(run_id, "diagnoses.json"))),
        outcomes=tuple(json.loads(tracking.read(run_id, "outcomes.json"))),
        requests=json.loads(tracking.read(run_id, "requests.json")),
        asked=experiment.scoring.asked,
        repeatable=tracking.tags(run_id).get("ilp.trained") == "true",
        unavailable=tuple(name for name in explain.LEFT if not tracking.has(run_id, f"{name}.parquet")),
        settings=config.dump(experiment.model_copy(update={"tracking": TrackingConfig()})),  # its address may hold a password
        versions={"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    )


def recorded(experiment: Experiment | None, run_id: str, *now: str) -> Experiment:
    """The experiment as the run has it, with the sections `now` as `experiment` has them. Raises TrackingError."""
    logged = config.parse(tracking.read(run_id, "experiment.yaml"), Path("experiment.yaml"))
    return logged.model_copy(update={name: getattr(experiment, name) for name in now})


def log_experiment(run_id: str, experiment: Experiment, stages: Sequence[Stage]) -> None:
    """Log on the run what an experiment is: its settings and its samples."""
    facts = {f"ilp.{s.name}.{k}": v for s in stages for k, v in settings(s).items() if k != "seed" or v != experiment.seed}
    known = tracking.params(run_id)  # what goes on may have changed: its stages' runs say how
    with task("log data", 3) as advance:
        tracking.log(run_id, params=_facts(experiment) | {k: v for k, v in facts.items() if k not in known})
        advance(1)
        _log_data(run_id, experiment, stages, "training")
        tracking.write(run_id, "experiment.yaml", config.dump(experiment))
        advance(1)
        tracking.write(run_id, "samples.parquet", dataset.to_columns(s for stage in stages for s in stage.samples))
        advance(1)


def _facts(experiment: Experiment) -> dict[str, str]:
    """What a run says of its experiment once and for all, as MLflow keeps it."""
    facts = {"name": experiment.name, "model": experiment.model, "seed": experiment.seed, "preset": experiment.scoring.preset}
    return {f"ilp.{name}": str(value) for name, value in facts.items()}


def _same(experiment: Experiment, run_id: str) -> None:
    """Raise ConfigError when a run is not of this experiment, or of another model, seed or preset."""
    was = tracking.params(run_id)
    for name, now in _facts(experiment).items():
        if was.get(name) != now:
            has = f"is of {name.removeprefix('ilp.')} {was[name]}" if name in was else "is not of an experiment"
            raise ConfigError(f"run {run_id} {has}, this is {now}; leave out --run-id for a new run")


def _log_data(run_id: str, experiment: Experiment, stages: Sequence[Stage], context: str) -> None:
    for stage, given in zip(stages, experiment.stages, strict=True):
        tracking.log_data(run_id, stage.name, stage.samples, context, given.data)


def read_samples(run_id: str) -> list[Sample]:
    """The samples of a run, as its training read them. Raises TrackingError."""
    return dataset.from_columns(tracking.read_table(run_id, "samples.parquet"))
