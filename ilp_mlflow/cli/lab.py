"""The lab, in which it is known why each sample will not be learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ilp_mlflow.cli.app import SEED_OPTION, main
from ilp_mlflow.cli.console import (
    links,
    load_libraries,
    output_options,
    print_result,
    report_text,
)
from ilp_mlflow.core.errors import ConfigError


@main.command("lab")
@click.argument(
    "experiment", required=False, default="experiments/lab.yaml", type=click.Path(path_type=Path)
)
@SEED_OPTION
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
@output_options
def lab_command(experiment: Path, seed: str, seeds: str, mitigate: str) -> None:
    """Run the lab, in which it is known what will not be learned.

    EXPERIMENT is experiments/lab.yaml unless given.
    """
    from ilp_mlflow.core import config

    _check_options(seed, seeds, mitigate)
    labs = [config.read(experiment, {"seed": s.strip()}) for s in (seeds or seed).split(",")]
    if not config.is_lab(labs[0]):
        raise ConfigError(
            f"{experiment}: not a lab: nothing in it is located at '{config.LAB_PREFIX}...'; "
            "see experiments/lab.yaml"
        )
    load_libraries(labs[0])
    from ilp_mlflow.lab import benchmark, tables

    documents, texts = [], []
    for lab in labs:
        mitigations = benchmark.all_mitigations(config.lab_size(lab)) if mitigate else None
        report, world, document = benchmark.run(
            lab, experiment, mitigations, composed=mitigate == "auto"
        )
        # with each cause removed in turn, many labs are run: the tables of all take the place of
        # the one report
        if seeds:
            document = benchmark.counterfactuals(lab, experiment, world, document)
            texts.append(tables.benchmark(document))
        else:
            lines = [report_text(report), "", tables.truth(document), *links(report.run_id)]
            texts.append("\n".join(lines))
        texts += _mitigation_tables(document, mitigate)
        documents.append(document)
    print_result({"seeds": documents}, "\n\n".join(texts))


def _check_options(seed: str, seeds: str, mitigate: str) -> None:
    """Raise ConfigError for options that do not go together, or have no such value."""
    if seed and seeds:
        raise ConfigError(
            "--seed and --seeds: give one of them; --seeds also runs every lab with each cause "
            "removed"
        )
    if mitigate not in ("", "all", "auto"):
        raise ConfigError(
            f"--mitigate {mitigate}: must be 'all' or 'auto'; for some of them set 'mitigations' "
            "in the file"
        )
    if seeds and "" in seeds.split(","):
        raise ConfigError(f"--seeds {seeds}: a seed is missing; write them as 3,4,5")


def _mitigation_tables(document: dict[str, Any], mitigate: str) -> list[str]:
    """What came of mitigations, as tables, where any were to be tried."""
    from ilp_mlflow.lab import tables

    if "auto" in document:
        return [tables.composed(document["auto"])]
    if mitigate:
        return [tables.mitigations(document)]
    return []
