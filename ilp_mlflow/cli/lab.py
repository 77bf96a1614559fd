"""`ilp lab`: the lab, in which it is known why each sample will not be learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ilp_mlflow.cli.app import MODEL_OPTION, SEED_OPTION, main
from ilp_mlflow.cli.console import (
    links,
    load_libraries,
    output_options,
    print_result,
    report_text,
)
from ilp_mlflow.core.config import LAB_PREFIX, Experiment
from ilp_mlflow.core.errors import ConfigError

LAB_FOLDER = Path(__file__).parents[1] / "lab"
OWN_EXPERIMENT = LAB_FOLDER / "lab.yaml"
"""The experiment of the lab itself, which comes with the package."""
WORLDS = {"invented": OWN_EXPERIMENT, "smollm2": LAB_FOLDER / "real" / "real_lab.yaml"}
"""The experiments that come with the package, by what their rows are about."""
FETCHED = "SmolLM2-135M-Instruct"
"""Folder of the cache that has the base of the world `smollm2` once it was fetched."""


@main.command("lab")
@click.argument("experiment", required=False, type=click.Path(path_type=Path))
@click.option(
    "--world",
    type=click.Choice(list(WORLDS)),
    help="What the rows are about: people whom the lab invents, for a tiny base that it trains "
    "itself; or easy facts of the real world, for a pretrained base.",
)
@MODEL_OPTION
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
def lab_command(
    experiment: Path | None, world: str | None, model: str, seed: str, seeds: str, mitigate: str
) -> None:
    """Run the lab, in which it is known what will not be learned.

    EXPERIMENT is the lab's own unless given.
    """
    if experiment and world:
        raise ConfigError(
            f"{experiment} and --world {world}: give one of them; --world is for the experiments "
            "that come with the package"
        )
    experiment = experiment or WORLDS[world or "invented"]
    experiments = _read(experiment, model, seed, seeds, mitigate)
    load_libraries(experiments[0])
    documents, texts = list[dict[str, Any]](), list[str]()
    for one in experiments:
        result, text = _run(one, experiment, mitigate, with_arms=bool(seeds))
        documents.append(result)
        texts.append(text)
    print_result({"seeds": documents}, "\n\n".join(texts))


def _run(
    experiment: Experiment, source: Path, mitigate: str, *, with_arms: bool
) -> tuple[dict[str, Any], str]:
    """What became of one lab, as it is printed as JSON and as text."""
    from ilp_mlflow.core import config
    from ilp_mlflow.lab import counterfactuals, mitigation_benchmark, tables
    from ilp_mlflow.lab.real.acceptance import with_acceptance

    if mitigate:
        tried = mitigation_benchmark.all_mitigations(config.lab_size(experiment))
        experiment = experiment.model_copy(update={"mitigations": tried})
    if mitigate == "auto":
        lab_run = mitigation_benchmark.run_composed(experiment, source)
    else:
        lab_run = mitigation_benchmark.run(experiment, source)
    result = lab_run.result
    if with_arms:
        result = counterfactuals.counterfactuals(lab_run, source)
        texts = [tables.benchmark(result)]
    else:
        report = lab_run.report
        parts = [report_text(report), "", tables.truth(result), *links(report.run_id)]
        texts = ["\n".join(parts)]
    if _is_real(experiment):
        result = with_acceptance(result)
        texts.append(tables.acceptance(result))
    if mitigate == "auto":
        texts.append(tables.composed(result["auto"]))
    elif mitigate:
        texts.append(tables.mitigations(result))
    return result, "\n\n".join(texts)


def _read(experiment: Path, model: str, seed: str, seeds: str, mitigate: str) -> list[Experiment]:
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
    if model and config.read(experiment, {}).model.startswith(LAB_PREFIX):
        raise ConfigError(
            f"--model {model}: {experiment.name} is about people the lab invents, of whom only "
            "its own base has read; leave --model out, or add --world smollm2"
        )
    experiments = [
        config.read(experiment, {"seed": one.strip(), "model": model or _fetched(experiment)})
        for one in (seeds or seed).split(",")
    ]
    if not config.is_lab(experiments[0]):
        raise ConfigError(
            f"{experiment}: not a lab: nothing in it is located at '{LAB_PREFIX}...'; leave it out "
            "for the lab's own experiment"
        )
    if mitigate and _is_real(experiments[0]):
        raise ConfigError(
            f"--mitigate {mitigate}: the real lab has no texts for mitigations to read; set "
            "'mitigations' in a copy of its file, and leave --mitigate out"
        )
    return experiments


def _is_real(experiment: Experiment) -> bool:
    """Whether the experiment's rows are of the real lab."""
    from ilp_mlflow.core import config
    from ilp_mlflow.lab.real.plant import SIZES

    return config.lab_size(experiment) in SIZES


def _fetched(experiment: Path) -> str:
    """The folder of the real lab's base where it was fetched without the Hub, else ""."""
    from ilp_mlflow.core import cache

    folder = cache.folder() / FETCHED
    return str(folder) if experiment == WORLDS["smollm2"] and folder.exists() else ""
