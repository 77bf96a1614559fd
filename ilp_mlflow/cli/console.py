"""What commands print, and how libraries are kept from printing."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from ilp_mlflow.core.terminal.progress import QUIET_ENV

if TYPE_CHECKING:
    from ilp_mlflow.core.config import Experiment
    from ilp_mlflow.core.values import Report


SLOW_IMPORTS = ("mlflow", "torch", "datasets", "transformers", "peft", "trl", "ilp_mlflow.pipeline")
"""What takes seconds to import, each about as long as another."""
NOISY_LOGGERS = (
    "transformers",
    "trl",
    "datasets",
    "huggingface_hub",
    "accelerate",
    "peft",
    "httpx",
)
"""Libraries of which only errors are shown."""
SILENT_LIBRARIES = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""Environment variables that keep libraries from printing; one that the user has set stays."""
STDOUT_KEY = "ilp.stdout"
"""Where click's context keeps the stdout that, with --json, is for the document alone."""


def output_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options --json and --quiet, which `print_result` and `progress` heed."""

    def json(context: click.Context, _: click.Parameter, is_set: bool) -> None:
        if is_set:
            context.meta[STDOUT_KEY] = sys.stdout
            # whatever a library or plugin prints goes elsewhere
            context.with_resource(contextlib.redirect_stdout(sys.stderr))

    def quiet(context: click.Context, _: click.Parameter, is_set: bool) -> None:
        if is_set:
            context.with_resource(_quiet())

    json_option = click.option(
        "--json",
        is_flag=True,
        expose_value=False,
        callback=json,
        help="Print one JSON document on stdout and nothing else there.",
    )
    quiet_option = click.option(
        "--quiet",
        is_flag=True,
        expose_value=False,
        callback=quiet,
        help="Print the result and errors only: no progress, no warnings.",
    )
    return quiet_option(json_option(function))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # in the environment, so that the processes of `--launch project` are quiet, too
    os.environ[QUIET_ENV] = "1"
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        os.environ.pop(QUIET_ENV)
        logging.disable(logging.NOTSET)


def print_result(document: Any, text: str) -> None:
    """Print `text` on stdout, or with --json the `document` that says the same.

    nan and infinity are null in the document, since JSON has no such numbers.
    """
    from pydantic_core import to_json

    stdout = click.get_current_context().meta.get(STDOUT_KEY)
    if stdout is None:
        click.echo(text)
        return
    json_text = to_json(document, indent=2, inf_nan_mode="null", fallback=str)
    click.echo(json_text, file=stdout)


def print_report(report: Report, appendix: str = "") -> None:
    """Print a report, an appendix to it, and where to find it in MLflow."""
    lines = ["", report_text(report)]
    if appendix:
        lines += ["", appendix]
    lines += links(report.run_id)
    print_result(report, "\n".join(lines))


def print_issue(report: Report) -> None:
    """Print a report as Markdown, for an issue."""
    from ilp_mlflow.report.summary import issue_markdown

    print_result(report, issue_markdown(report))


def paint(text: str, colour: str) -> str:
    """Text in a colour of click, where stdout is a terminal that wants colours."""
    return click.style(text, fg=colour, bold=True) if wants_colours() else text


def wants_colours() -> bool:
    """Whether stdout is a terminal that wants colours."""
    # see https://no-color.org
    refused = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return not refused and sys.stdout.isatty()


def report_text(report: Report) -> str:
    """A report as text for the terminal."""
    from ilp_mlflow.report.summary import terminal_summary

    return terminal_summary(report, paint)


def links(run_id: str) -> list[str]:
    """Lines that say how to see a run in the MLflow UI."""
    from ilp_mlflow.tracking import connection

    return ["", *connection.how_to_open(run_id)]


def silence_libraries(experiment: Experiment | None = None) -> None:
    """Keep the libraries' own bars, banners and warnings off the terminal.

    A lab is also kept on one thread. To be called before the libraries are imported.
    """
    from ilp_mlflow.core import config

    if experiment and config.is_lab(experiment):
        # its model is so small that threads wait for each other
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name, value in SILENT_LIBRARIES.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore")
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)


def load_libraries(experiment: Experiment | None = None) -> None:
    """Import what takes seconds to import, under a bar."""
    silence_libraries(experiment)
    from ilp_mlflow.core.terminal.progress import task

    with task("load libraries", len(SLOW_IMPORTS)) as advance:
        for name in SLOW_IMPORTS:
            importlib.import_module(name)
            advance(1)
