"""The verbs of an experiment: all of it, or train, diagnose, mitigate, report one by one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ilp_mlflow.cli.app import (
    CHECKPOINTS,
    GO_ON,
    LAUNCH,
    MODEL,
    RUN_ID,
    SEED,
    experiment_command,
    scoring_options,
)
from ilp_mlflow.cli.console import (
    hush,
    links,
    load_libraries,
    print_issue,
    print_report,
    print_result,
)
from ilp_mlflow.core.errors import ConfigError, StepFailed

if TYPE_CHECKING:
    from ilp_mlflow.core.config import Experiment


@experiment_command("run", MODEL, SEED, LAUNCH, GO_ON)
def run_command(experiment: Path, model: str, seed: str, launch: str, run_id: str) -> None:
    """Train every stage, score, diagnose, mitigate, report."""
    from ilp_mlflow.core import config

    config_ = config.read(experiment, {"model": model, "seed": seed, "launch": launch})
    _peek(config_)
    load_libraries(config_)
    from ilp_mlflow import pipeline

    try:
        if config.is_lab(config_):
            from ilp_mlflow.lab import benchmark, tables

            report, _, found = benchmark.run(config_, experiment, run_id=run_id or None)
            print_report(report, tables.truth(found))
        else:
            print_report(pipeline.run(config_, experiment, run_id or None))
    except StepFailed as failed:
        print_report(failed.args[1])
        raise


@experiment_command("train", MODEL, SEED, LAUNCH, GO_ON)
def train_command(experiment: Path, model: str, seed: str, launch: str, run_id: str) -> None:
    """Train and register every stage."""
    from ilp_mlflow.core import config

    config_ = config.read(experiment, {"model": model, "seed": seed, "launch": launch})
    _peek(config_)
    load_libraries(config_)
    from ilp_mlflow import pipeline
    from ilp_mlflow.core.terminal import wrap
    from ilp_mlflow.tracking import runs

    run_id = pipeline.train(located(config_), experiment, run_id or None)
    checkpoints = [c.model_dump() for c in runs.read_checkpoints(run_id)]
    lines = [
        line for c in checkpoints for line in wrap(f"{c['name']:<20} {c['model_uri']}", hang=21)
    ]
    print_result(
        {"run_id": run_id, "checkpoints": checkpoints}, "\n".join([*lines, *links(run_id)])
    )


@experiment_command(
    "stage",
    click.option("--stage", required=True, help="Name of the stage."),
    click.option(
        "--model",
        default="",
        help="Model to start from (default: newest version of the stage before).",
    ),
    click.option("--data", default="", help="Data file in place of the stage's."),
    SEED,
    click.option("--run-id", default="", help="MLflow run to put the stage's run under."),
)
def stage_command(
    experiment: Path, stage: str, model: str, data: str, seed: str, run_id: str
) -> None:
    """Train one stage from a parent model, and register it."""
    from ilp_mlflow.core import config

    config_ = config.read(experiment, {"seed": seed}, {stage: data} if data else {})
    hush(config_)
    from ilp_mlflow.tracking import runs
    from ilp_mlflow.training.stage import run_stage

    child = run_stage(located(config_), stage, model or None, run_id or None)
    uri = runs.read_checkpoints(child)[-1].model_uri
    print_result({"run_id": child, "model_uri": uri}, "\n".join([uri, *links(child)]))


@experiment_command(
    "diagnose",
    RUN_ID,
    CHECKPOINTS,
    click.option(
        "--data",
        multiple=True,
        metavar="[NAME=]FILE",
        help="Rows that NAME, or the last checkpoint, was trained on.",
    ),
    scoring_options,
    SEED,
    required=False,
)
def diagnose_command(
    experiment: Path | None, run_id: str, checkpoints: tuple[str, ...], **given: Any
) -> None:
    """Score and judge samples, and say why some failed.

    They are those of a trained EXPERIMENT, or of models trained elsewhere (--checkpoint).
    """
    if experiment:
        if more := [
            f"--{name}" for name, value in {"checkpoint": checkpoints, **given}.items() if value
        ]:
            raise ConfigError(
                f"{experiment} and {more[0]}: give one of them; with an experiment file, it says what {more[0]} says"
            )
        _on_run(experiment, run_id, "diagnose", "scoring", "diagnostics", "mitigations")
        return
    if run_id and not (checkpoints or any(given.values())):
        _on_run(None, run_id, "diagnose")
        return
    if run_id or not (checkpoints and given["data"]):
        raise ConfigError(
            "give an experiment file; or, without one and without --run-id, both --checkpoint and --data"
        )
    from ilp_mlflow.data import checkpoint_folders

    found = checkpoint_folders.find_checkpoints(checkpoints)
    config_ = checkpoint_folders.experiment_for(found, **given)
    _peek(config_)
    load_libraries()
    from ilp_mlflow import pipeline

    print_report(pipeline.run_elsewhere(config_, found))


@experiment_command(
    "mitigate",
    RUN_ID,
    click.option(
        "--plan",
        default="each",
        type=click.Choice(["each", "auto"]),
        help="Each by itself, or the fitting ones composed.",
    ),
    click.option(
        "--only",
        default="",
        metavar="NAME,...",
        help="Mitigations to try, in place of all in the experiment.",
    ),
    click.option(
        "--max-unlearned",
        type=click.FloatRange(0, 1),
        help="Share at which auto stops; exit with 1 beyond it.",
    ),
    click.option(
        "--budget",
        type=click.FloatRange(min=0),
        metavar="SECONDS",
        help="Begin no other mitigation after that.",
    ),
    click.option("--alone", is_flag=True, hidden=True),
    click.option(
        "--jobs",
        default=1,
        type=click.IntRange(min=1),
        help="So many side by side; needs --launch project.",
    ),
    LAUNCH,
)
def mitigate_command(
    experiment: Path,
    run_id: str,
    plan: Literal["each", "auto"],
    only: str,
    max_unlearned: float | None,
    budget: float | None,
    jobs: int,
    alone: bool,
    launch: str,
) -> None:
    """Try mitigations in child runs, and say which to take.

    The model that it leads to is registered under the alias `mitigated`.
    """
    from ilp_mlflow.core import config, plugin_loader

    config_ = config.read(experiment, {"launch": launch})
    names = tuple(name.strip() for name in only.split(",") if name.strip())
    if jobs > 1 and (config_.launch != "project" or plan == "auto"):
        raise ConfigError(
            "--jobs: only with --launch project and --plan each, as one MLflow project run for every mitigation"
        )
    given = config_.mitigations  # a wrong name is told before libraries are loaded
    plugin_loader.configure("mitigation", {name: given.get(name, {}) for name in names or given})
    load_libraries(config_)
    from ilp_mlflow.mitigation.search import SearchOptions

    wanted = SearchOptions(plan, names, max_unlearned, budget, jobs, alone)
    sections = ("mitigations", "held_out", "launch", "backend", "backend_config")
    found = _on_run(
        experiment, run_id, "mitigate", *sections, wanted=wanted, launch=launch, alone=alone
    )
    if max_unlearned is not None and not alone:
        from ilp_mlflow.mitigation.outcome import recommended

        best = recommended(found.outcomes)
        least = best.unlearned_rate if best else found.unlearned_rate
        if least > max_unlearned:
            click.echo(
                f"ilp: {least:.1%} unlearned under what is recommended, more than --max-unlearned {max_unlearned:g}",
                err=True,
            )
            sys.exit(1)


@experiment_command(
    "report",
    RUN_ID,
    click.option(
        "--genai",
        type=click.IntRange(1, 1000),
        metavar="N",
        help="Also put N samples, unlearned ones first, into MLflow's GenAI evaluation view.",
    ),
    click.option(
        "--markdown", is_flag=True, help="As Markdown to paste into an issue, without samples."
    ),
    required=False,
)
def report_command(experiment: Path | None, run_id: str, genai: int | None, markdown: bool) -> None:
    """Show and log the report of a diagnosed run.

    It is the newest of EXPERIMENT, or any (--run-id).
    """
    report = _on_run(experiment, run_id, None, show=print_issue if markdown else print_report)
    if genai:
        from ilp_mlflow.report.mlflow_traces import export_traces
        from ilp_mlflow.tracking.connection import evaluation_url

        click.echo(f"samples as traces: {evaluation_url(export_traces(report, genai))}", err=True)


def _on_run(
    experiment: Path | None,
    run_id: str,
    verb: str | None,
    *sections: str,
    launch: str = "",
    alone: bool = False,
    show: Callable[[Any], None] = print_report,
    **options: Any,
) -> Any:
    """Call a verb on a trained run, with `sections` as the file has them now, and show the report, which is returned.

    `alone`: the run that MLflow made for this process is for one part of that; there is no report of that.
    """
    from ilp_mlflow.core import config

    if not (experiment or run_id):
        raise ConfigError("give an experiment file, or the id of a run with --run-id")
    config_ = config.read(experiment, {"launch": launch}) if experiment else None
    from ilp_mlflow.tracking import connection, runs

    connection.use_store(config_.tracking if config_ else config.TrackingConfig())
    found = runs.find_experiment_run(config_.name if config_ else "", run_id or None, keep=alone)
    load_libraries()
    from ilp_mlflow import pipeline

    if config_ and verb:  # the lab's files are of the seed with which the run was trained
        config_ = located(
            config_.model_copy(update={"seed": runs.read_experiment(None, found).seed})
        )
    config_ = runs.read_experiment(config_, found, *sections)
    failed = None
    try:
        if verb == "mitigate":
            pipeline.mitigate(
                config_, found, experiment.resolve() if experiment else Path(), **options
            )
        elif verb:
            getattr(pipeline, verb)(config_, found)
    except StepFailed as error:
        failed = error
    if alone and failed:
        raise failed
    if alone:
        return None
    report = pipeline.make_report(config_, found)
    show(report)
    if failed:
        raise failed
    return report


def _peek(experiment: Experiment) -> None:
    """Find plugins and read the first row of every file, before libraries are loaded: a wrong name is told at once.

    Raises PluginError and DatasetError.
    """
    from ilp_mlflow.core import config, plugin_loader
    from ilp_mlflow.data.samples import load_samples

    plugin_loader.configure("diagnostic", experiment.diagnostics)
    plugin_loader.configure("mitigation", experiment.mitigations)
    held_out = {"held_out": experiment.held_out} if experiment.held_out else {}
    for name, data in {**{s.name: s.data for s in experiment.stages}, **held_out}.items():
        if data.path and not config.is_lab(experiment) and not config.REMOTE_URI.match(data.path):
            load_samples(name, data.model_copy(update={"limit": 1}))


def located(experiment: Experiment) -> Experiment:
    """The experiment with the files the lab makes for it, if it asks for any."""
    from ilp_mlflow.core import config

    if not config.is_lab(experiment):
        return experiment
    from ilp_mlflow.lab import data_files

    return data_files.resolve(experiment)[0]
