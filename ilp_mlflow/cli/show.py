"""`ilp show`: one sample of a diagnosed run, as the model saw it."""

from __future__ import annotations

import click

from ilp_mlflow.cli.app import main
from ilp_mlflow.cli.console import (
    output_options,
    paint,
    print_result,
    silence_libraries,
    wants_colours,
)


@main.command("show")
@click.argument("run_id", metavar="RUN")
@click.argument("sample_id", metavar="SAMPLE")
@output_options
def show_command(run_id: str, sample_id: str) -> None:
    """Show what the model saw of a sample, and what was trained.

    RUN is a diagnosed run, SAMPLE the id of one of its samples.
    """
    silence_libraries()
    from ilp_mlflow.core import config
    from ilp_mlflow.report.sample_view import read_view, view_lines
    from ilp_mlflow.tracking import connection, runs

    connection.use_store(config.TrackingConfig())
    view = read_view(runs.find_experiment_run("", run_id), sample_id)
    print_result(view, "\n".join(view_lines(view, paint, wants_colours())))
