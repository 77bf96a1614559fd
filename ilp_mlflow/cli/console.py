"""What commands print, and what libraries must not."""

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

from ilp_mlflow.core.progress import QUIET

if TYPE_CHECKING:
    from ilp_mlflow.core.config import Experiment


LIBRARIES = ("mlflow", "torch", "datasets", "transformers", "peft", "trl", "ilp_mlflow.pipeline")
"""What takes seconds to import, each as long as another, roughly."""
STDOUT = "ilp.stdout"
"""Where a command with --json keeps the stdout that is for its document alone."""


def printing(function: Callable[..., None]) -> Callable[..., None]:
    """The options --json and --quiet, which `print_result` and `progress` heed."""

    def json(context: click.Context, _: click.Parameter, wanted: bool) -> None:
        if wanted:
            context.meta[STDOUT] = sys.stdout
            context.with_resource(
                contextlib.redirect_stdout(sys.stderr)
            )  # whatever a library or plugin prints

    def quiet(context: click.Context, _: click.Parameter, wanted: bool) -> None:
        if wanted:
            context.with_resource(_quiet())

    text = "Print one JSON document on stdout and nothing else there."
    function = click.option("--json", is_flag=True, expose_value=False, callback=json, help=text)(
        function
    )
    text = "Print the result and errors only: no progress, no warnings."
    return click.option("--quiet", is_flag=True, expose_value=False, callback=quiet, help=text)(
        function
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    os.environ[QUIET] = "1"  # for the processes of `--launch project`, too
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        os.environ.pop(QUIET)
        logging.disable(logging.NOTSET)


def print_result(document: Any, text: str) -> None:
    """The document as JSON, with null for what is no number, or the text that says the same, on stdout."""
    from pydantic_core import to_json

    stdout = click.get_current_context().meta.get(STDOUT)
    if stdout is None:
        click.echo(text)
    else:
        click.echo(to_json(document, indent=2, inf_nan_mode="null", fallback=str), file=stdout)


def print_report(found: Any, more: str = "") -> None:
    """A report with where to find it in MLflow; `more` is put behind its text."""
    text = "\n".join(["", report_text(found), *(["", more] if more else []), *links(found.run_id)])
    print_result(found, text)


def print_issue(found: Any) -> None:
    """A report as Markdown, for an issue."""
    from ilp_mlflow.report.summary import issue_markdown

    print_result(found, issue_markdown(found))


def paint(text: str, colour: str) -> str:
    """Text in a colour (of click), on a terminal that is not told otherwise."""
    plain = (
        os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not sys.stdout.isatty()
    )
    return text if plain else click.style(text, fg=colour, bold=True)


def report_text(found: Any) -> str:
    """A report as text for the terminal."""
    from ilp_mlflow.report.summary import terminal_summary

    return terminal_summary(found, paint)


def links(run_id: str) -> list[str]:
    """Lines that say how to see a run in the MLflow UI."""
    from ilp_mlflow.tracking import connection

    return ["", *connection.how_to_open(run_id)]


def hush(experiment: Experiment | None = None) -> None:
    """Keep the libraries' own bars, banners and retries off the terminal, and a lab on one thread."""
    from ilp_mlflow.core import config

    if experiment and config.is_lab(experiment):
        os.environ.setdefault(
            "OMP_NUM_THREADS", "1"
        )  # its model is so small that threads wait for each other
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    warnings.filterwarnings("ignore")
    for name in (
        "transformers",
        "trl",
        "datasets",
        "huggingface_hub",
        "accelerate",
        "peft",
        "httpx",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)


def load_libraries(experiment: Experiment | None = None) -> None:
    """Import what takes seconds to import, under a bar."""
    hush(experiment)
    from ilp_mlflow.core.progress import task

    with task("load libraries", len(LIBRARIES)) as advance:
        for name in LIBRARIES:
            importlib.import_module(name)
            advance(1)
