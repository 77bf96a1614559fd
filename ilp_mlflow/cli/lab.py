"""The lab, in which it is known why each sample will not be learned."""

from __future__ import annotations

from pathlib import Path

import click

from ilp_mlflow.cli.app import SEED, main
from ilp_mlflow.cli.console import links, load_libraries, print_result, printing, report_text
from ilp_mlflow.core.errors import ConfigError


@main.command("lab")
@click.argument(
    "experiment", required=False, default="experiments/lab.yaml", type=click.Path(path_type=Path)
)
@SEED
@click.option(
    "--seeds",
    default="",
    metavar="A,B,...",
    help="Run each of these, and again with every cause removed in turn.",
)
@click.option(
    "--mitigate",
    default="",
    help="'all': try every installed mitigation; 'auto': composed, and as an oracle would.",
)
@printing
def lab_command(experiment: Path, seed: str, seeds: str, mitigate: str) -> None:
    """Run the lab, in which it is known what will not be learned.

    EXPERIMENT is experiments/lab.yaml unless given.
    """
    from ilp_mlflow.core import config

    if seed and seeds:
        raise ConfigError(
            "--seed and --seeds: give one of them; --seeds also runs every lab with each cause removed"
        )
    if mitigate not in ("", "all", "auto"):
        raise ConfigError(
            f"--mitigate {mitigate}: must be 'all' or 'auto'; for some of them set 'mitigations' in the file"
        )
    if "" in (seeds or "0").split(","):
        raise ConfigError(f"--seeds {seeds}: a seed is missing; write them as 3,4,5")
    labs = [config.read(experiment, {"seed": s.strip()}) for s in (seeds or seed).split(",")]
    if not config.is_lab(labs[0]):
        raise ConfigError(
            f"{experiment}: not a lab: nothing in it is located at '{config.LAB_PREFIX}...'; see experiments/lab.yaml"
        )
    load_libraries(labs[0])
    from ilp_mlflow.lab import benchmark, tables

    documents, texts = [], []
    for lab in labs:
        tried = benchmark.all_mitigations(config.lab_size(lab)) if mitigate else None
        report, made, found = benchmark.run(lab, experiment, tried, composed=mitigate == "auto")
        if seeds:
            found = benchmark.counterfactuals(lab, experiment, made, found)
        documents.append(found)
        texts.append(
            tables.benchmark(found)
            if seeds
            else "\n".join([report_text(report), "", tables.truth(found), *links(report.run_id)])
        )
        texts += (
            [tables.composed(found["auto"])]
            if "auto" in found
            else [tables.mitigations(found)]
            if mitigate
            else []
        )
    print_result({"seeds": documents}, "\n\n".join(texts))
