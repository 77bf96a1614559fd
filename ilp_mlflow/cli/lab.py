"""`ilp lab`: the lab, in which it is known why each sample will not be learned."""

from __future__ import annotations

from pathlib import Path

import click

from ilp_mlflow.cli.app import SEED_OPTION, main
from ilp_mlflow.cli.console import (
    links,
    load_libraries,
    output_options,
    print_result,
    report_text,
)
from ilp_mlflow.core.config import LAB_PREFIX, Experiment
from ilp_mlflow.core.errors import ConfigError

OWN_EXPERIMENT = Path(__file__).parents[1] / "lab" / "lab.yaml"
"""The experiment of the lab itself, which comes with the package."""


@main.command("lab")
@click.argument(
    "experiment", required=False, default=OWN_EXPERIMENT, type=click.Path(path_type=Path)
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

    EXPERIMENT is the lab's own unless given.
    """
    experiments = _read(experiment, seed, seeds, mitigate)
    load_libraries(experiments[0])
    from ilp_mlflow.core import config
    from ilp_mlflow.lab import counterfactuals, mitigation_benchmark, tables

    documents, texts = [], []
    for one in experiments:
        if mitigate:
            tried = mitigation_benchmark.all_mitigations(config.lab_size(one))
            one = one.model_copy(update={"mitigations": tried})
        if mitigate == "auto":
            lab_run = mitigation_benchmark.run_composed(one, experiment)
        else:
            lab_run = mitigation_benchmark.run(one, experiment)
        result = lab_run.result
        if seeds:
            result = counterfactuals.counterfactuals(lab_run, experiment)
            texts.append(tables.benchmark(result))
        else:
            report = lab_run.report
            parts = [report_text(report), "", tables.truth(result), *links(report.run_id)]
            texts.append("\n".join(parts))
        if mitigate == "auto":
            texts.append(tables.composed(result["auto"]))
        elif mitigate:
            texts.append(tables.mitigations(result))
        documents.append(result)
    print_result({"seeds": documents}, "\n\n".join(texts))


def _read(experiment: Path, seed: str, seeds: str, mitigate: str) -> list[Experiment]:
    """The experiment, once for every seed. Raises ConfigError for options that do not fit."""
    from ilp_mlflow.core import config

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
    if "" in (seeds or "0").split(","):
        raise ConfigError(f"--seeds {seeds}: a seed is missing; write them as 3,4,5")
    experiments = [
        config.read(experiment, {"seed": one.strip()}) for one in (seeds or seed).split(",")
    ]
    if not config.is_lab(experiments[0]):
        raise ConfigError(
            f"{experiment}: not a lab: nothing in it is located at '{LAB_PREFIX}...'; leave it out "
            "for the lab's own experiment"
        )
    return experiments
