"""`ilp check`: what can be said of rows, a model and a configuration before anything is trained."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ilp_mlflow.cli.app import data_options, main, take_data_options
from ilp_mlflow.cli.console import output_options, paint, print_result, silence_libraries
from ilp_mlflow.core.errors import ConfigError
from ilp_mlflow.core.terminal.progress import task

if TYPE_CHECKING:
    from ilp_mlflow.core.config import DataConfig
    from ilp_mlflow.core.values import Sample
    from ilp_mlflow.data.training_configs.setup import TrainingSetup
    from ilp_mlflow.training.checks.check import RowCheck
    from ilp_mlflow.training.checks.finding import CheckFinding

FORMAT = "ilp-check/1"
"""What the JSON document says it is."""
COLOURS = {"error": "red", "warning": "yellow", "note": "blue"}
"""Colour of a finding's first word, by its severity."""


@main.command("check")
@click.option(
    "--data",
    multiple=True,
    metavar="ROWS",
    help="Rows to check, in any form that is read (default: those that --training names).",
)
@click.option(
    "--model",
    default="",
    help="Hub id, folder or MLflow URI of the model (default: the one that --training names).",
)
@click.option(
    "--training",
    default="",
    metavar="CONFIG",
    help="Configuration of TRL, LLaMA-Factory or axolotl, or an experiment file (FILE#STAGE).",
)
@data_options
@click.option("--strict", is_flag=True, help="Exit with 1 when anything but notes is found.")
@output_options
def check_command(
    data: tuple[str, ...],
    model: str,
    training: str,
    chat_template: str | None,
    strict: bool,
    **options: str,
) -> None:
    """Check rows against a model before anything is trained.

    Weights are not loaded, and no run is made.
    """
    setup = _read_setup(training, chat_template, with_data=not data)
    sources = _sources(data, take_data_options(options), setup)
    location = model or setup.model
    if not location:
        raise ConfigError("--model: missing; give the model that is to be trained, or a --training")
    silence_libraries()
    setup, sources = _fit(setup, sources)
    samples = _load(sources)

    with task("check rows"):
        from ilp_mlflow.training.checks.check import check_rows

        checked = check_rows(samples, _parts(location), setup, _load_held_out(setup))
    document = {
        "format": FORMAT,
        "setup": setup.model_dump(mode="json"),
        **checked.model_dump(mode="json"),
    }
    lines = [setup.read_as, *_steps(setup, checked.rows), "", *_table(checked), ""]
    lines += _finding_lines(checked)
    print_result(document, "\n".join(lines))
    if strict and any(finding.severity != "note" for finding in checked.findings):
        sys.exit(1)


def _read_setup(training: str, chat_template: str | None, with_data: bool) -> TrainingSetup:
    """What the training does to rows, with another chat template where one is given."""
    from ilp_mlflow.data.training_configs.chat_templates import read_template
    from ilp_mlflow.data.training_configs.read import read_training_config
    from ilp_mlflow.data.training_configs.setup import TrainingSetup

    setup = TrainingSetup(loss_on="answer")
    if training:
        setup = read_training_config(training, with_data)
    if chat_template:
        text = read_template(chat_template, Path.cwd(), "--chat-template")
        setup = setup.model_copy(update={"chat_template": text})
    return setup


def _sources(
    data: tuple[str, ...], options: dict[str, str], setup: TrainingSetup
) -> list[DataConfig]:
    """Where the rows lie: as given, else as the training configuration says."""
    from ilp_mlflow.core import config

    given = {name: value for name, value in options.items() if value}
    sources = []
    for path in data:
        parameters = {"path": path, **given}
        sources.append(config.parse_parameters(config.DataConfig, parameters))
    if data:
        return sources
    if not setup.data:
        raise ConfigError("--data: missing; give a file with rows, or a --training that names one")
    for source in setup.data:
        values = source.model_dump(exclude_unset=True) | given
        sources.append(config.parse_parameters(config.DataConfig, values))
    return sources


def _fit(setup: TrainingSetup, sources: list[DataConfig]) -> tuple[TrainingSetup, list[DataConfig]]:
    """The setup and the rows with what the trainer makes of their columns."""
    from ilp_mlflow.data.training_configs.trl_rows import fit_to_trl

    return fit_to_trl(setup, sources)


def _load(sources: list[DataConfig]) -> list[Sample]:
    """The rows of all sources, in order. Raises DatasetError, and where text meets messages."""
    from ilp_mlflow.data.samples import load_samples

    samples: list[Sample] = []
    for number, source in enumerate(sources, 1):
        # ids of rows without one name the source where there are several
        name = "data" if len(sources) == 1 else f"data{number}"
        samples += load_samples(name, source)
    kinds = {isinstance(sample.prompt, str) for sample in samples}
    if len(kinds) > 1:
        raise ConfigError(
            "--data: some sources are text and some conversations; check them one by one"
        )
    return samples


def _load_held_out(setup: TrainingSetup) -> list[Sample]:
    """The rows that the configuration sets aside, as far as they lie here.

    What is only on the Hub is not worth a download.
    """
    from ilp_mlflow.data.samples import load_samples

    samples: list[Sample] = []
    for source in setup.held_out:
        if source.path:
            samples += load_samples("held_out", source)
    return samples


def _parts(location: str) -> list[str]:
    """The parts that a model is made of, base first."""
    folder = Path(location)
    is_whole = (folder / "config.json").exists() and not (folder / "adapter_config.json").exists()
    # MLflow, which is asked for anything else, takes a second or two to import
    if is_whole:
        return [os.path.realpath(folder)]
    from ilp_mlflow.tracking import model_registry

    return model_registry.resolve_parts(location)


def _steps(setup: TrainingSetup, rows: int) -> list[str]:
    """How long the training is, where that is known."""
    from ilp_mlflow.training.checks.optimization import planned_steps, steps_per_pass

    steps = planned_steps(setup, rows)
    if setup.packing or steps is None:
        return ["packed: several rows share a sequence; counts are of single rows"]
    per_step = _count(min(setup.batch_size * setup.accumulation, rows), "row")
    in_a_pass = steps_per_pass(setup, rows)
    passes = steps / in_a_pass
    if setup.max_steps <= 0 and passes == int(passes):
        length = f"{_count(int(passes), 'epoch')} of {_count(in_a_pass, 'step')}"
        return [f"{length}, {per_step} a step, on one device"]
    # a training ends with a whole step, so that its passes may be more than what was asked for
    return [f"{_count(steps, 'step')}, {per_step} a step, on one device: {passes:.3g} epochs"]


def _count(number: int, what: str) -> str:
    """`1 step`, `2 steps`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _table(checked: RowCheck) -> list[str]:
    """Tokens per row: the least, the median, the most."""
    from ilp_mlflow.core.terminal.text import format_table

    lines = [["tokens per row", "least", "median", "most"]]
    for name, spread in checked.tokens.items():
        form = "{:.0%}" if name.startswith("share") else "{:,.0f}"
        values = (spread.minimum, spread.median, spread.maximum)
        lines.append([name, *(form.format(value) for value in values)])
    return [f"{checked.rows:,} rows", *(format_table(lines) if checked.tokens else [])]


def _finding_lines(checked: RowCheck) -> list[str]:
    lines: list[str] = []
    for finding in checked.findings:
        lines += _finding_line(finding)
    return lines or ["nothing found"]


def _finding_line(finding: CheckFinding) -> list[str]:
    """A finding as wrapped text: severity, what is so, an example, what to change."""
    from ilp_mlflow.core.terminal.text import wrap

    parts = [f"{finding.severity}: {finding.sentence}"]
    if finding.example:
        parts.append(f"e.g. {finding.example}")
    if finding.change:
        parts.append(finding.change)
    first, *rest = wrap("; ".join(parts), hang=2)
    word = f"{finding.severity}:"
    return [first.replace(word, paint(word, COLOURS[finding.severity]), 1), *rest]
