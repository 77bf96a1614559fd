"""Models and runs that exist already: score, compare, list."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ilp_mlflow.cli.app import (
    CHECKPOINTS_OPTION,
    SEED_OPTION,
    data_options,
    find_chat_template,
    main,
    scoring_options,
    take_data_options,
)
from ilp_mlflow.cli.console import load_libraries, output_options, print_result, silence_libraries
from ilp_mlflow.core.errors import ConfigError

ONE_RUN_LABELS = {"only_before": "only in A", "only_after": "only in B"}
"""How the terminal names samples that only one of two runs has."""

if TYPE_CHECKING:
    import pyarrow as pa

    from ilp_mlflow.core.values import Sample


@main.command("score")
@CHECKPOINTS_OPTION
@click.option(
    "--data",
    required=True,
    help="File, folder or pattern of files with rows, or where MLflow finds one.",
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Parquet file to write."
)
@data_options
@scoring_options
@click.option(
    "--no-cache",
    is_flag=True,
    help="Score afresh, even what was scored before with the same weights.",
)
@SEED_OPTION
@output_options
def score_command(
    checkpoints: tuple[str, ...],
    data: str,
    out: Path,
    chat_template: str,
    no_cache: bool,
    seed: str,
    **options_given: str,
) -> None:
    """Score samples under models trained anywhere."""
    from ilp_mlflow.core import config
    from ilp_mlflow.data import checkpoint_folders
    from ilp_mlflow.data.samples import load_first_samples, load_samples

    located = checkpoint_folders.find_checkpoints(checkpoints)
    locations = {checkpoint.name: checkpoint.model_uri for checkpoint in located}
    _check_writable(out)
    rows = config.parse_parameters(
        config.DataConfig, {"path": data, **take_data_options(options_given)}
    )
    options = config.parse_parameters(config.ScoringConfig, options_given)
    tokenizer = config.TokenizerConfig(chat_template=find_chat_template(chat_template))
    # what is wrong with a file is told before libraries are loaded, which takes seconds
    if not config.REMOTE_URI.match(data):
        load_first_samples("data", rows)
    load_libraries()
    samples = load_samples("data", rows)
    seed_number = config.parse_parameters(config.Seed, {"seed": seed}).seed
    import pyarrow.parquet as pq

    from ilp_mlflow.core.terminal.progress import task
    from ilp_mlflow.scoring.checkpoints import choose_wrong_options
    from ilp_mlflow.scoring.judged import score_and_judge
    from ilp_mlflow.scoring.metrics import recognition_shares, recognition_unscored
    from ilp_mlflow.scoring.models import loading
    from ilp_mlflow.tracking import model_registry

    # a device that is not there is told before any model is loaded
    loading.pick_device(options.device)
    with task("check models"):
        parts_by_name = model_registry.resolve_all(locations)
        for parts in parts_by_name.values():
            loading.check_whole(parts)
            loading.tell_idle_adapters(parts)
    model_registry.tell_side_by_side(parts_by_name)
    model_registry.tell_other_bases(parts_by_name)
    cached = not no_cache
    wrong = choose_wrong_options(samples, locations, options, seed_number, tokenizer, cached)
    judged = score_and_judge(samples, wrong, locations, options, seed_number, tokenizer, cached)
    scores = judged.scores
    pq.write_table(scores, out)
    names = list(locations)
    learned = _learned_shares(judged.judgements, samples, names)
    unscored = _unscored_counts(judged.judgements, samples, names)
    recognition = recognition_shares(scores, names)
    document = {
        "out": str(out),
        "samples": len(samples),
        "preset": options.preset,
        "learned": learned,
        "unscored": unscored,
        "recognition": recognition,
        "recognition_unscored": recognition_unscored(scores, names),
    }
    lines = _score_table(learned, unscored, recognition)
    lines += ["", f"{len(samples)} samples, scores in {out}"]
    if any(unscored.values()):
        lines += ["unscored: in no share; the column `unscored` of that file says why"]
    print_result(document, "\n".join(lines))


def _check_writable(out: Path) -> None:
    """Raise ConfigError where no Parquet file can be written at `out`."""
    place = out if out.exists() else out.parent
    if out.suffix != ".parquet" or not os.access(place, os.W_OK):
        raise ConfigError(
            f"--out {out}: must be a .parquet file that can be written, in a folder that exists"
        )


def _learned_shares(
    judgements: pa.Table, samples: Sequence[Sample], checkpoints: Sequence[str]
) -> dict[str, float | None]:
    """Share 0..1 of the scored samples that are learned, by checkpoint; None where none is."""
    from ilp_mlflow.scoring.verdicts.timeline import retention_by_stage

    stage_by_id = {sample.id: "data" for sample in samples}
    shares = retention_by_stage(judgements, stage_by_id, checkpoints)
    return shares["data"]


def _unscored_counts(
    judgements: pa.Table, samples: Sequence[Sample], checkpoints: Sequence[str]
) -> dict[str, int]:
    """Number of samples that are not scored, by checkpoint."""
    from ilp_mlflow.scoring.verdicts.timeline import unscored_by_stage

    stage_by_id = {sample.id: "data" for sample in samples}
    return unscored_by_stage(judgements, stage_by_id, checkpoints)["data"]


def _score_table(
    learned: Mapping[str, float | None],
    unscored: Mapping[str, int],
    recognition: Mapping[str, Mapping[str, float]],
) -> list[str]:
    """A row per checkpoint: shares of samples learned, and of right options that win.

    Beside them the number of samples that are not scored, where there are any.
    """
    from ilp_mlflow.core.terminal.text import format_table

    header = ["checkpoint", "learned"]
    rows = [[name, _percent(share)] for name, share in learned.items()]
    if any(unscored.values()):
        header.append("unscored")
        for row in rows:
            row.append(str(unscored[row[0]]))
    # without options in the data, nothing can be recognised
    if recognition["sum"]:
        header += ["right option wins", "prompt blanked"]
        for row in rows:
            name = row[0]
            row.append(_percent(recognition["sum"].get(name)))
            row.append(_percent(recognition["blank"].get(name)))
    return format_table([header, *rows])


def _percent(share: float | None) -> str:
    """A share 0..1 in percent, or "-" where there is none."""
    return "-" if share is None else f"{share:.1%}"


@main.command("compare")
@click.argument("run_a")
@click.argument("run_b")
@click.option(
    "--max-regressed",
    type=click.FloatRange(min=0),
    help="Exit with 1 beyond this share (below 1) or number of samples, or if it cannot be told.",
)
@output_options
def compare_command(run_a: str, run_b: str, max_regressed: float | None) -> None:
    """Say what became of every sample from one run to another.

    RUN_A and RUN_B are diagnosed runs, or runs of mitigations. A sample that is not scored in both
    is neither kept nor regressed; --max-regressed fails on one that was scored.
    """
    load_libraries()
    from ilp_mlflow.core.terminal.text import wrap
    from ilp_mlflow.mitigation.compare_runs import compare_runs, regression_fault
    from ilp_mlflow.scoring.verdicts.unscored import unscored_text
    from ilp_mlflow.tracking import runs

    comparison = compare_runs(run_a, run_b)
    lines = wrap(f"from: {runs.run_name(run_a)} ({run_a})", hang=6)
    lines += wrap(f"to  : {runs.run_name(run_b)} ({run_b})", hang=6)
    lines.append("")
    for name, ids in comparison.transitions.items():
        label = ONE_RUN_LABELS.get(name, name)
        lines += wrap(f"{label:<12} {len(ids):>7}  {', '.join(ids[:3])}", hang=22)
    lines.append("")
    for run, groups in (("A", comparison.unscored_in_a), ("B", comparison.unscored_in_b)):
        if groups:
            lines += wrap(f"unscored in {run}: {unscored_text(groups)}", hang=2)
    lines += wrap("flickering: too close to call on one side or both, which is no change")
    lines.append(
        f"McNemar: p = {comparison.p_value:.2g} that recovered and regressed samples are "
        "as many by chance"
    )
    print_result(comparison.document(), "\n".join(lines))
    fault = regression_fault(comparison, max_regressed) if max_regressed is not None else ""
    if fault:
        click.echo(f"ilp: {fault}", err=True)
        sys.exit(1)


@main.command("stages")
@click.argument("experiment", required=False, default="")
@output_options
def stages_command(experiment: str) -> None:
    """List registered stages and where they come from.

    EXPERIMENT is a name or an experiment file.
    """
    from ilp_mlflow.core import config

    tracking, name = config.TrackingConfig(), experiment or None
    if experiment.endswith((".yaml", ".yml")):
        settings = config.read(experiment)
        tracking, name = settings.tracking, settings.name
    silence_libraries()
    from ilp_mlflow.core.terminal.text import wrap
    from ilp_mlflow.tracking import connection, model_registry

    connection.use_store(tracking)
    stages = model_registry.list_stages(name)
    lines: list[str] = []
    for stage in stages:
        origin = f"from {stage['parent']}, base {stage['base']}"
        lines += wrap(stage["uri"])
        lines += wrap(f"{origin}, data {str(stage['data_digest'])[:12]}", indent=4, hang=2)
        lines += wrap(f"run {stage['run_id']}", indent=4)
    text = "\n".join(lines) or f"no registered stages in {model_registry.registry_uri()}"
    print_result(stages, text)
