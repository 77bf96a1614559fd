"""Models and runs that are there already: score, compare, list."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from ilp_mlflow.cli.app import CHECKPOINTS, SEED, main, scoring_options
from ilp_mlflow.cli.console import hush, load_libraries, print_result, printing
from ilp_mlflow.core.errors import ConfigError


@main.command("score")
@CHECKPOINTS
@click.option(
    "--data",
    required=True,
    help="JSONL, CSV or Parquet file, data set folder, or where MLflow finds one.",
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Parquet file to write."
)
@scoring_options
@click.option(
    "--no-cache",
    is_flag=True,
    help="Score afresh, even what was scored before with the same weights.",
)
@SEED
@printing
def score_command(
    checkpoints: tuple[str, ...], data: str, out: Path, no_cache: bool, seed: str, **scoring: str
) -> None:
    """Score samples under models trained anywhere."""
    from ilp_mlflow.core import config
    from ilp_mlflow.data import checkpoint_folders
    from ilp_mlflow.data.samples import load_samples

    locations = {c.name: c.model_uri for c in checkpoint_folders.find_checkpoints(checkpoints)}
    if out.suffix != ".parquet" or not os.access(out if out.exists() else out.parent, os.W_OK):
        raise ConfigError(
            f"--out {out}: must be a .parquet file that can be written, in a folder that exists"
        )
    options = config.parse_parameters(config.ScoringConfig, scoring)
    if not config.REMOTE_URI.match(
        data
    ):  # what is wrong with a file is told before libraries are loaded
        load_samples("data", config.DataConfig(path=data, limit=1))
    load_libraries()
    samples = load_samples("data", config.DataConfig(path=data))
    number = config.parse_parameters(config.Seed, {"seed": seed}).seed
    import pyarrow.parquet as pq

    from ilp_mlflow.core.terminal import format_table
    from ilp_mlflow.scoring import loading
    from ilp_mlflow.scoring.checkpoints import choose_wrong_options, score_checkpoints
    from ilp_mlflow.scoring.recognition import recognition_shares
    from ilp_mlflow.scoring.verdicts import retention_by_stage

    loading.pick_device(options.device)
    wrong = choose_wrong_options(samples, locations, options, number, cached=not no_cache)
    scores = score_checkpoints(samples, wrong, locations, options, number, cached=not no_cache)
    pq.write_table(scores, out)
    shares = retention_by_stage(
        scores, {s.id: "data" for s in samples}, list(locations), options.preset, number
    )["data"]
    won = recognition_shares(scores, list(locations))
    head, cells = (
        ["checkpoint", "learned"],
        [[name, f"{share:.1%}"] for name, share in shares.items()],
    )
    if won["sum"]:
        head += ["right option wins", "prompt blanked"]
        cells = [
            [*row, f"{won['sum'][row[0]]:.1%}", f"{won['blank'][row[0]]:.1%}"] for row in cells
        ]
    document = {
        "out": str(out),
        "samples": len(samples),
        "preset": options.preset,
        "learned": shares,
        "recognition": won,
    }
    print_result(
        document,
        "\n".join([*format_table([head, *cells]), "", f"{len(samples)} samples, scores in {out}"]),
    )


@main.command("compare")
@click.argument("run_a")
@click.argument("run_b")
@click.option(
    "--max-regressed",
    type=click.FloatRange(min=0),
    help="Exit with 1 beyond this share (below 1) or number of samples.",
)
@printing
def compare_command(run_a: str, run_b: str, max_regressed: float | None) -> None:
    """Say what became of every sample from one run to another.

    RUN_A and RUN_B are diagnosed runs, or runs of mitigations.
    """
    load_libraries()
    from ilp_mlflow.core.terminal import wrap
    from ilp_mlflow.mitigation.compare_runs import compare_runs
    from ilp_mlflow.tracking import runs

    found = compare_runs(run_a, run_b)
    groups = {name: ids for name, ids in found.items() if name != "p_value"}
    heads = (
        f"{side}: {runs.run_name(run)} ({run})" for side, run in (("from", run_a), ("to  ", run_b))
    )
    lines = [*(line for head in heads for line in wrap(head, hang=6)), ""]
    lines += [
        line
        for name, ids in groups.items()
        for line in wrap(f"{name:<12} {len(ids):>7}  {', '.join(ids[:3])}", hang=22)
    ]
    lines += ["", *wrap("flickering: too close to call on one side or both, which is no change")]
    lines += [
        f"McNemar: p = {found['p_value']:.2g} that recovered and regressed samples are as many by chance"
    ]
    print_result(found, "\n".join(lines))
    if max_regressed is None:
        return
    learned = len(found["kept"]) + len(found["regressed"]) or 1
    if len(found["regressed"]) > (max_regressed * learned if max_regressed < 1 else max_regressed):
        click.echo(
            f"ilp: {len(found['regressed'])} samples regressed, more than --max-regressed {max_regressed:g}",
            err=True,
        )
        sys.exit(1)


@main.command("stages")
@click.argument("experiment", required=False, default="")
@printing
def stages_command(experiment: str) -> None:
    """List registered stages and where they come from.

    EXPERIMENT is a name or an experiment file.
    """
    from ilp_mlflow.core import config

    tracking_config, name = config.TrackingConfig(), experiment or None
    if experiment.endswith((".yaml", ".yml")):
        read = config.read(experiment)
        tracking_config, name = read.tracking, read.name
    hush()
    from ilp_mlflow.core.terminal import wrap
    from ilp_mlflow.tracking import connection, model_registry

    connection.use_store(tracking_config)
    rows = model_registry.list_stages(name)
    lines = list[str]()
    for row in rows:
        lines += wrap(row["uri"])
        lines += wrap(
            f"from {row['parent']}, base {row['base']}, data {str(row['data_digest'])[:12]}", 4, 2
        )
        lines += wrap(f"run {row['run_id']}", 4)
    print_result(
        rows, "\n".join(lines) or f"no registered stages in {model_registry.registry_uri()}"
    )
