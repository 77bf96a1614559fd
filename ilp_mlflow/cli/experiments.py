"""What is done with an experiment: all of it, or train, diagnose, mitigate, report one by one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import click

from ilp_mlflow.cli.app import (
    CHECKPOINTS_OPTION,
    LAUNCH_OPTION,
    MODEL_OPTION,
    RESUME_OPTION,
    RUN_ID_OPTION,
    SEED_OPTION,
    data_options,
    experiment_command,
    find_chat_template,
    scoring_options,
    take_data_options,
)
from ilp_mlflow.cli.console import (
    links,
    load_libraries,
    print_issue,
    print_report,
    print_result,
    silence_libraries,
)
from ilp_mlflow.core.errors import ConfigError, StepFailed
from ilp_mlflow.core.terminal.notes import say_once

if TYPE_CHECKING:
    from ilp_mlflow.core.config import Experiment
    from ilp_mlflow.core.values import Report
    from ilp_mlflow.mitigation.confirm.arms import Cost


@experiment_command("run", MODEL_OPTION, SEED_OPTION, LAUNCH_OPTION, RESUME_OPTION)
def run_command(experiment: Path, model: str, seed: str, launch: str, run_id: str) -> None:
    """Train every stage, score, diagnose, mitigate, report."""
    from ilp_mlflow.core import config

    settings = config.read(experiment, {"model": model, "seed": seed, "launch": launch})
    _check_first_rows(settings)
    load_libraries(settings)
    from ilp_mlflow import pipeline

    try:
        if config.is_lab(settings):
            from ilp_mlflow.lab import mitigation_benchmark, tables

            lab_run = mitigation_benchmark.run(settings, experiment, run_id or None)
            print_report(lab_run.report, tables.truth(lab_run.result))
        else:
            print_report(pipeline.run(settings, experiment, run_id or None))
    except StepFailed as failed:
        # what went well is logged and worth a report; the exit code says that not all did
        print_report(failed.args[1])
        raise


@experiment_command("train", MODEL_OPTION, SEED_OPTION, LAUNCH_OPTION, RESUME_OPTION)
def train_command(experiment: Path, model: str, seed: str, launch: str, run_id: str) -> None:
    """Train and register every stage."""
    from ilp_mlflow.core import config

    settings = config.read(experiment, {"model": model, "seed": seed, "launch": launch})
    _check_first_rows(settings)
    load_libraries(settings)
    from ilp_mlflow import pipeline
    from ilp_mlflow.core.terminal.text import wrap
    from ilp_mlflow.tracking import runs

    run_id = pipeline.train(with_lab_files(settings), experiment, run_id or None)
    checkpoints = runs.read_checkpoints(run_id)
    lines: list[str] = []
    for checkpoint in checkpoints:
        lines += wrap(f"{checkpoint.name:<20} {checkpoint.model_uri}", hang=21)
    document = {"run_id": run_id, "checkpoints": [c.model_dump() for c in checkpoints]}
    print_result(document, "\n".join([*lines, *links(run_id)]))


@experiment_command(
    "stage",
    click.option("--stage", required=True, help="Name of the stage."),
    click.option(
        "--model",
        default="",
        help="Model to start from (default: newest version of the stage before).",
    ),
    click.option("--data", default="", help="Data file in place of the stage's."),
    SEED_OPTION,
    click.option("--run-id", default="", help="MLflow run to put the stage's run under."),
)
def stage_command(
    experiment: Path, stage: str, model: str, data: str, seed: str, run_id: str
) -> None:
    """Train one stage from a parent model, and register it."""
    from ilp_mlflow.core import config

    settings = config.read(experiment, {"seed": seed}, {stage: data} if data else {})
    silence_libraries(settings)
    from ilp_mlflow.tracking import runs
    from ilp_mlflow.training.stage import run_stage

    stage_run = run_stage(with_lab_files(settings), stage, model or None, run_id or None)
    uri = runs.read_checkpoints(stage_run)[-1].model_uri
    document = {"run_id": stage_run, "model_uri": uri}
    print_result(document, "\n".join([uri, *links(stage_run)]))


@experiment_command(
    "diagnose",
    RUN_ID_OPTION,
    CHECKPOINTS_OPTION,
    click.option(
        "--data",
        multiple=True,
        metavar="[NAME=]FILE",
        help="Rows that NAME, or the last checkpoint, was trained on.",
    ),
    data_options,
    scoring_options,
    SEED_OPTION,
    click.option(
        "--confirm",
        default=0,
        type=click.IntRange(min=0),
        metavar="N",
        help="Try out the causes of up to N samples of each in small trainings without them.",
    ),
    click.option("--yes", is_flag=True, help="Do not ask before these trainings start."),
    required=False,
)
def diagnose_command(
    experiment: Path | None,
    run_id: str,
    checkpoints: tuple[str, ...],
    confirm: int,
    yes: bool,
    **options: Any,
) -> None:
    """Score and judge samples, and say why some failed.

    They are those of a trained EXPERIMENT, or of models trained elsewhere (--checkpoint).
    """
    if yes and not confirm:
        raise ConfigError("--yes: there is nothing to ask before; give --confirm N, too")
    if confirm and checkpoints:
        raise ConfigError(
            f"--confirm {confirm}: nobody knows how the models of --checkpoint were trained, so no "
            "cause can be tried out; leave it out, or train here ('ilp train --help')"
        )
    values_by_name = {"checkpoint": checkpoints, **options}
    flags = [f"--{name.replace('_', '-')}" for name, value in values_by_name.items() if value]
    if experiment and flags:
        raise ConfigError(
            f"{experiment} and {flags[0]}: give one of them; with an experiment file, it says what "
            f"{flags[0]} says"
        )
    if experiment or (run_id and not flags):
        _diagnose_run(experiment, run_id, confirm, yes)
    elif run_id or not (checkpoints and options["data"]):
        raise ConfigError(
            "give an experiment file; or, without one and without --run-id, both --checkpoint and "
            "--data"
        )
    else:
        _diagnose_elsewhere(checkpoints, **options)


def _diagnose_run(experiment: Path | None, run_id: str, confirm: int, yes: bool) -> None:
    """Diagnose a trained run by the rules that the file has now, or those it was trained with.

    The causes of `confirm` samples of each are tried out, once that is agreed to or `yes`.
    """
    from ilp_mlflow.core import config

    settings = config.read(experiment) if experiment else None
    # what was trained cannot change any more; how it is judged is the file's to say
    sections = ("scoring", "diagnostics", "mitigations") if experiment else ()
    run = _open_run(settings, run_id, sections)
    from ilp_mlflow import pipeline
    from ilp_mlflow.mitigation.confirm.confirm import ConfirmOptions

    wanted = ConfirmOptions(confirm, lambda cost: _agree(cost, yes)) if confirm else None
    pipeline.diagnose(run.experiment, run.run_id, wanted)
    print_report(pipeline.make_report(run.experiment, run.run_id))


def _agree(cost: Cost, yes: bool) -> bool:
    """Tell what small trainings cost and, on a terminal, ask whether to start them."""
    if yes or not sys.stdin.isatty():
        say_once(cost.sentence)
        return True
    return click.confirm(f"ilp: {cost.sentence}; start them?", err=True)


def _diagnose_elsewhere(checkpoints: tuple[str, ...], **options: Any) -> None:
    """Diagnose models that were trained elsewhere, given on the command line."""
    from ilp_mlflow.data import checkpoint_folders

    located = checkpoint_folders.find_checkpoints(checkpoints)
    rows = take_data_options(options)
    options["chat_template"] = find_chat_template(options["chat_template"])
    settings = checkpoint_folders.experiment_for(located, rows=rows, **options)
    _check_first_rows(settings)
    load_libraries()
    from ilp_mlflow import pipeline

    print_report(pipeline.run_elsewhere(settings, located))


@experiment_command(
    "mitigate",
    RUN_ID_OPTION,
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
        help="Share at which auto stops; exit with 1 beyond it, or if a sample is unscored.",
    ),
    click.option(
        "--budget",
        type=click.FloatRange(min=0),
        metavar="SECONDS",
        help="Begin no other mitigation after that.",
    ),
    # what `--launch project` gives to the process of each mitigation; not for users
    click.option("--alone", is_flag=True, hidden=True),
    click.option(
        "--jobs",
        default=1,
        type=click.IntRange(min=1),
        help="So many side by side; needs --launch project.",
    ),
    LAUNCH_OPTION,
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
    from ilp_mlflow.core import config

    settings = config.read(experiment, {"launch": launch})
    if jobs > 1 and (settings.launch != "project" or plan == "auto"):
        raise ConfigError(
            "--jobs: only with --launch project and --plan each, as one MLflow project run for "
            "every mitigation"
        )
    names = tuple(name.strip() for name in only.split(",") if name.strip())
    _check_mitigations(settings, names)
    load_libraries(settings)
    from ilp_mlflow import pipeline
    from ilp_mlflow.mitigation.search import SearchOptions

    # the rest of the experiment is as the run was trained and diagnosed
    sections = ("mitigations", "held_out", "launch", "backend", "backend_config")
    run = _open_run(settings, run_id, sections, keep_project_run=alone)
    search = SearchOptions(
        plan=plan,
        only=names,
        max_unlearned=max_unlearned,
        budget=budget,
        jobs=jobs,
        alone=alone,
    )
    if alone:
        # the run of this process is one mitigation's own: whoever launched it makes the report
        pipeline.mitigate(run.experiment, run.run_id, experiment.resolve(), search)
        return
    failed = None
    try:
        pipeline.mitigate(run.experiment, run.run_id, experiment.resolve(), search)
    except StepFailed as error:
        failed = error
    report = pipeline.make_report(run.experiment, run.run_id)
    print_report(report)
    if failed:
        raise failed
    if max_unlearned is not None:
        _check_unlearned(report, max_unlearned)


def _check_mitigations(experiment: Experiment, only: tuple[str, ...]) -> None:
    """Find the mitigations of an experiment, or `only` some, so that a wrong name is told at once.

    To be called before libraries are loaded, which takes seconds. Raises PluginError.
    """
    from ilp_mlflow.core import plugin_loader

    names = only or tuple(experiment.mitigations)
    options = {name: experiment.mitigations.get(name, {}) for name in names}
    plugin_loader.configure("mitigation", options)


def _check_unlearned(report: Report, limit: float) -> None:
    """Exit with 1 where more than a share stays unlearned, or a sample has no score.

    That is under what the report recommends.
    """
    from ilp_mlflow.mitigation.outcome import unlearned_fault

    fault = unlearned_fault(report, limit)
    if fault:
        click.echo(f"ilp: {fault}", err=True)
        sys.exit(1)


@experiment_command(
    "report",
    RUN_ID_OPTION,
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
    from ilp_mlflow.core import config

    if not (experiment or run_id):
        raise ConfigError("give an experiment file, or the id of a run with --run-id")
    run = _open_run(config.read(experiment) if experiment else None, run_id)
    from ilp_mlflow import pipeline

    report = pipeline.make_report(run.experiment, run.run_id)
    if markdown:
        print_issue(report)
    else:
        print_report(report)
    if genai:
        from ilp_mlflow.report.mlflow_traces import export_traces
        from ilp_mlflow.tracking import connection

        url = connection.evaluation_url(export_traces(report, genai))
        click.echo(f"samples as traces: {url}", err=True)


class _Run(NamedTuple):
    """A trained run that a command works on."""

    experiment: Experiment
    """As the run has it, but for the sections that the command takes from the file."""
    run_id: str
    """Its MLflow run."""


def _open_run(
    settings: Experiment | None,
    run_id: str,
    sections: tuple[str, ...] = (),
    keep_project_run: bool = False,
) -> _Run:
    """Find a trained run, by its id or as the newest of an experiment.

    `settings` is the experiment's file; its `sections` replace what the run has. With
    `keep_project_run`, the run that MLflow made for this process stays for the results.
    """
    from ilp_mlflow.core import config
    from ilp_mlflow.tracking import connection, runs

    connection.use_store(settings.tracking if settings else config.TrackingConfig())
    name = settings.name if settings else ""
    run_id = runs.find_experiment_run(name, run_id or None, keep=keep_project_run)
    load_libraries()
    if settings and sections:
        # the lab's files are of the seed with which the run was trained
        seed = runs.read_experiment(None, run_id).seed
        settings = with_lab_files(settings.model_copy(update={"seed": seed}))
    return _Run(runs.read_experiment(settings, run_id, *sections), run_id)


def _check_first_rows(experiment: Experiment) -> None:
    """Find plugins and read the first rows of every file, so that a wrong name is told at once.

    To be called before libraries are loaded, which takes seconds. Raises PluginError and
    DatasetError.
    """
    from ilp_mlflow.core import config, plugin_loader
    from ilp_mlflow.data.samples import load_first_samples

    plugin_loader.configure("diagnostic", experiment.diagnostics)
    plugin_loader.configure("mitigation", experiment.mitigations)
    # the lab makes its files, and those of MLflow are fetched once libraries are there
    if config.is_lab(experiment):
        return
    data_by_name = {stage.name: stage.data for stage in experiment.stages}
    if experiment.held_out:
        data_by_name["held_out"] = experiment.held_out
    for name, data in data_by_name.items():
        if data.path and not config.REMOTE_URI.match(data.path):
            load_first_samples(name, data)


def with_lab_files(experiment: Experiment) -> Experiment:
    """The experiment with the files that the lab makes for it, if it asks for any."""
    from ilp_mlflow.core import config

    if not config.is_lab(experiment):
        return experiment
    from ilp_mlflow.lab import data_files

    return data_files.resolve(experiment)[0]
