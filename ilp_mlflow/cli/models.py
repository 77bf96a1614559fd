"""Models and runs that are there already: score, compare, list."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from ilp_mlflow.cli.group import CHECKPOINTS, SEED, main, scoring_options
from ilp_mlflow.cli.output import hush, load_libraries, print_result, printing
from ilp_mlflow.errors import ConfigError


@main.command("score")
@CHECKPOINTS
@click.option("--data", required=True, help="JSONL, CSV or Parquet file, data set folder, or where MLflow finds one.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Parquet file to write.")
@scoring_options
@click.option("--no-cache", is_flag=True, help="Score afresh, even what was scored before with the same weights.")
@SEED
@printing
def score_command(checkpoints: tuple[str, ...], data: str, out: Path, no_cache: bool, seed: str, **scoring: str) -> None:
    """Score samples under models trained anywhere."""
    from ilp_mlflow import config, dataset, elsewhere

    locations = {c.name: c.model_uri for c in elsewhere.checkpoints(checkpoints)}
    if out.suffix != ".parquet" or not os.access(out if out.exists() else out.parent, os.W_OK):
        raise ConfigError(f"--out {out}: must be a .parquet file that can be written, in a folder that exists")
    options = config.parameters(config.ScoringConfig, scoring)
    if not config.REMOTE.match(data):  # what is wrong with a file is told before libraries are loaded
        dataset.load("data", config.DataConfig(path=data, limit=1))
    load_libraries()
    samples = dataset.load("data", config.DataConfig(path=data))
    number = config.parameters(config.Seed, {"seed": seed}).seed
    import pyarrow.parquet as pq

    from ilp_mlflow import measure, models, verdict
    from ilp_mlflow.layout import table
    from ilp_mlflow.recognition import recognition

    models.pick_device(options.device)
    wrong = measure.wrong_answers(samples, locations, options, number, cached=not no_cache)
    scores = measure.score(samples, wrong, locations, options, number, cached=not no_cache)
    pq.write_table(scores, out)
    shares = verdict.retention(scores, {s.id: "data" for s in samples}, list(locations), options.preset, number)["data"]
    won = recognition(scores, list(locations))
    head, cells = ["checkpoint", "learned"], [[name, f"{share:.1%}"] for name, share in shares.items()]
    if won["sum"]:
        head += ["right option wins", "prompt blanked"]
        cells = [[*row, f"{won['sum'][row[0]]:.1%}", f"{won['blank'][row[0]]:.1%}"] for row in cells]
    document = {"out": str(out), "samples": len(samples), "preset": options.preset, "learned": shares, "recognition": won}
    print_result(document, "\n".join([*table([head, *cells]), "", f"{len(samples)} samples, scores in {out}"]))


@main.command("compare")
@click.argument("run_a")
@click.argument("run_b")
@click.option("--max-regressed", type=click.FloatRange(min=0), help="Exit with 1 beyond this share (below 1) or number of samples.")
@printing
def compare_command(run_a: str, run_b: str, max_regressed: float | None) -> None:
    """Say what became of every sample from one run to another.

    RUN_A and RUN_B are diagnosed runs, or runs of mitigations.
    """
    load_libraries()
    from ilp_mlflow import comparison, tracking
    from ilp_mlflow.layout import wrapped

    found = comparison.compare(run_a, run_b)
    groups = {name: ids for name, ids in found.items() if name != "p_value"}
    heads = (f"{side}: {tracking.name_of(run)} ({run})" for side, run in (("from", run_a), ("to  ", run_b)))
    lines = [*(line for head in heads for line in wrapped(head, hang=6)), ""]
    lines += [line for name, ids in groups.items() for line in wrapped(f"{name:<12} {len(ids):>7}  {', '.join(ids[:3])}", hang=22)]
    lines += ["", *wrapped("flickering: too close to call on one side or both, which is no change")]
    lines += [f"McNemar: p = {found['p_value']:.2g} that recovered and regressed samples are as many by chance"]
    print_result(found, "\n".join(lines))
    if max_regressed is None:
        return
    learned = len(found["kept"]) + len(found["regressed"]) or 1
    if len(found["regressed"]) > (max_regressed * learned if max_regressed < 1 else max_regressed):
        click.echo(f"ilp: {len(found['regressed'])} samples regressed, more than --max-regressed {max_regressed:g}", err=True)
        sys.exit(1)


@main.command("stages")
@click.argument("experiment", required=False, default="")
@printing
def stages_command(experiment: str) -> None:
    """List registered stages and where they come from.

    EXPERIMENT is a name or an experiment file.
    """
    from ilp_mlflow import config

    tracking_config, name = config.TrackingConfig(), experiment or None
    if experiment.endswith((".yaml", ".yml")):
        read = config.read(experiment)
        tracking_config, name = read.tracking, read.name
    hush()
    from ilp_mlflow import catalog, tracking
    from ilp_mlflow.layout import wrapped

    tracking.point(tracking_config)
    rows = catalog.lineage(name)
    lines = list[str]()
    for row in rows:
        lines += wrapped(row["uri"])
        lines += wrapped(f"from {row['parent']}, base {row['base']}, data {str(row['data_digest'])[:12]}", 4, 2)
        lines += wrapped(f"run {row['run_id']}", 4)
    print_result(rows, "\n".join(lines) or f"no registered stages in {catalog.where()}")
