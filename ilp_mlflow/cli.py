"""The `ilp` command: parse, call, print. Heavy imports happen inside the commands."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ilp_mlflow.errors import ConfigError, IlpError, StepFailed

if TYPE_CHECKING:
    from ilp_mlflow.config import Experiment

RUN_ID = click.option("--run-id", default="", help="MLflow run of the experiment (default: its newest).")
SEED = click.option("--seed", default="", help="Seed in place of the experiment's.")
MODEL = click.option("--model", default="", help="Model in place of the experiment's: Hub id, folder or MLflow URI.")
CHECKPOINTS = click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    metavar="NAME=LOCATION",
    help="A model trained anywhere, or a trainer's output folder (its checkpoint-N are NAME@N); the first is the base.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout and nothing else there.")


class _Group(click.Group):
    """Turns what a user can repair into one line and exit code 2, and keeps the traceback of everything else (3)."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stopped job marks its run KILLED, as Ctrl-C does
        try:
            return super().main(*args, **{**kwargs, "prog_name": "ilp", "standalone_mode": False})
        except IlpError as error:
            code, text = 2, str(error)
        except click.UsageError as error:
            context = error.ctx.command_path if error.ctx else "ilp"
            code, text = 2, f"{error.format_message().rstrip('.')}; see '{context} --help'"
        except click.ClickException as error:
            code, text = 2, error.format_message()
        except StepFailed as error:
            code, text = 3, str(error.args[0])
        except (KeyboardInterrupt, click.Abort):
            code, text = 130, "interrupted; what was finished is in MLflow, and the run is marked KILLED"
        except Exception:
            traceback.print_exc()
            code, text = 3, "this is a fault in ilp or in a library below it; please report it with the lines above"
        print(f"ilp: {' '.join(text.split())}", file=sys.stderr)
        sys.exit(code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ilp-mlflow")
def main() -> None:
    """Find the fine-tuning samples a model did not learn, since when, why, and what fixes it."""


def _experiment_command(name: str, *options: Callable[..., Any], required: bool = True) -> Callable[..., Any]:
    """A command that takes EXPERIMENT and --json besides its own options."""

    def decorate(function: Callable[..., None]) -> click.Command:
        decorated: Any = JSON(function)
        for option in reversed(options):
            decorated = option(decorated)
        decorated = click.argument("experiment", type=click.Path(path_type=Path), required=required)(decorated)
        return main.command(name)(decorated)

    return decorate


def _scoring(function: Callable[..., None]) -> Callable[..., None]:
    """The options of `config.ScoringConfig`, "" for its default."""
    function = click.option("--device", default="", help="'auto', 'cpu', 'cuda', ...")(function)
    dtypes = "'float32', 'bfloat16', or 'mixed': decide in float32 what is close in bfloat16."
    function = click.option("--dtype", default="", help=dtypes)(function)
    function = click.option("--options", default="", help="Wrong options chosen for a sample that gives none.")(function)
    return click.option("--preset", default="", help="'default' or 'paper'.")(function)


LAUNCH = click.option("--launch", default="", help="'inline', or 'project' for one MLflow project run per stage.")


@_experiment_command("run", MODEL, SEED, LAUNCH)
def run_command(experiment: Path, model: str, seed: str, launch: str, as_json: bool) -> None:
    """Train every stage, score, diagnose, mitigate, report."""
    from ilp_mlflow import config

    config_ = config.read(experiment, {"model": model, "seed": seed, "launch": launch})
    _load_libraries(config_)
    from ilp_mlflow import pipeline

    try:
        if config.is_lab(config_):
            from ilp_mlflow.lab import table, trial

            report, _, found = trial.run(config_, experiment)
            _print_report(report, as_json, table.truth(found))
        else:
            _print_report(pipeline.run(config_, experiment), as_json)
    except StepFailed as failed:
        _print_report(failed.args[1], as_json)
        raise


@_experiment_command("train", MODEL, SEED, LAUNCH)
def train_command(experiment: Path, model: str, seed: str, launch: str, as_json: bool) -> None:
    """Train and register every stage."""
    from ilp_mlflow import config

    config_ = config.read(experiment, {"model": model, "seed": seed, "launch": launch})
    _load_libraries(config_)
    from ilp_mlflow import pipeline, tracking

    run_id = pipeline.train(_located(config_), experiment)
    checkpoints = [c.model_dump() for c in tracking.read_checkpoints(run_id)]
    lines = [f"{c['name']:<20} {c['model_uri']}" for c in checkpoints]
    _print({"run_id": run_id, "checkpoints": checkpoints}, "\n".join([*lines, *_links(run_id)]), as_json)


@_experiment_command(
    "stage",
    click.option("--stage", required=True, help="Name of the stage."),
    click.option("--model", default="", help="Model to start from (default: newest version of the stage before)."),
    click.option("--data", default="", help="Data file in place of the stage's."),
    SEED,
    click.option("--run-id", default="", help="MLflow run to put the stage's run under."),
)
def stage_command(experiment: Path, stage: str, model: str, data: str, seed: str, run_id: str, as_json: bool) -> None:
    """Train and register one stage, from a parent model to a new version."""
    from ilp_mlflow import config

    config_ = config.read(experiment, {"seed": seed}, {stage: data} if data else {})
    _quiet(config_)
    from ilp_mlflow import tracking
    from ilp_mlflow.stage import run_stage

    child = run_stage(_located(config_), stage, model or None, run_id or None)
    uri = tracking.read_checkpoints(child)[-1].model_uri
    _print({"run_id": child, "model_uri": uri}, "\n".join([uri, *_links(child)]), as_json)


@_experiment_command(
    "diagnose",
    RUN_ID,
    CHECKPOINTS,
    click.option("--data", multiple=True, metavar="[NAME=]FILE", help="Rows that NAME, or the last checkpoint, was trained on."),
    _scoring,
    SEED,
    required=False,
)
def diagnose_command(experiment: Path | None, run_id: str, checkpoints: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Score and judge samples, and say why some failed: of a trained EXPERIMENT, or of models trained elsewhere (--checkpoint)."""
    if experiment:
        if more := [f"--{name}" for name, value in {"checkpoint": checkpoints, **given}.items() if value]:
            raise ConfigError(f"{experiment} and {more[0]}: give one of them; with an experiment file, it says what {more[0]} says")
        _on_run(experiment, run_id, as_json, "diagnose", "scoring", "diagnostics", "mitigations")
        return
    if run_id or not (checkpoints and given["data"]):
        raise ConfigError("give an experiment file; or, without one and without --run-id, both --checkpoint and --data")
    from ilp_mlflow import elsewhere

    found = elsewhere.checkpoints(checkpoints)
    config_ = elsewhere.experiment(found, **given)
    _load_libraries()
    from ilp_mlflow import pipeline

    _print_report(pipeline.run_elsewhere(config_, found), as_json)


@_experiment_command(
    "mitigate",
    RUN_ID,
    click.option(
        "--plan", default="each", type=click.Choice(["each", "auto"]), help="Each by itself, or the fitting ones composed."
    ),
    click.option("--only", default="", metavar="NAME,...", help="Mitigations to try, in place of all in the experiment."),
    click.option("--max-unlearned", type=click.FloatRange(0, 1), help="Share at which auto stops; exit with 1 beyond it."),
    click.option(
        "--budget",
        type=click.FloatRange(min=0),
        metavar="SECONDS",
        help="Begin no other mitigation after that.",
    ),
    click.option("--alone", is_flag=True, hidden=True),
    click.option("--jobs", default=1, type=click.IntRange(min=1), help="So many side by side; needs --launch project."),
    LAUNCH,
)
def mitigate_command(
    experiment: Path,
    run_id: str,
    plan: Literal["each", "auto"],
    only: str,
    max_unlearned: float | None,
    budget: float | None,
    jobs: int,
    alone: bool,
    launch: str,
    as_json: bool,
) -> None:
    """Try mitigations in child runs, say which to take, and register the model that it leads to as `mitigated`."""
    from ilp_mlflow import config

    config_ = config.read(experiment, {"launch": launch})
    names = tuple(name.strip() for name in only.split(",") if name.strip())
    if jobs > 1 and (config_.launch != "project" or plan == "auto"):
        raise ConfigError("--jobs: only with --launch project and --plan each, as one MLflow project run for every mitigation")
    _load_libraries(config_)
    from ilp_mlflow.remedies import Wanted

    wanted = Wanted(plan, names, max_unlearned, budget, jobs, alone)
    sections = ("mitigations", "held_out", "launch", "backend", "backend_config")
    found = _on_run(experiment, run_id, as_json, "mitigate", *sections, wanted=wanted, launch=launch, alone=alone)
    if max_unlearned is not None and not alone:
        from ilp_mlflow import outcome

        best = outcome.recommend(found.outcomes)
        least = best.unlearned_rate if best else found.unlearned_rate
        if least > max_unlearned:
            click.echo(
                f"ilp: {least:.1%} unlearned under what is recommended, more than --max-unlearned {max_unlearned:g}",
                err=True,
            )
            sys.exit(1)


@_experiment_command(
    "report",
    RUN_ID,
    click.option(
        "--genai",
        type=click.IntRange(1, 1000),
        metavar="N",
        help="Also put N samples, unlearned ones first, into MLflow's GenAI evaluation view.",
    ),
    required=False,
)
def report_command(experiment: Path | None, run_id: str, genai: int | None, as_json: bool) -> None:
    """Show and log the report of a diagnosed EXPERIMENT, or of any diagnosed run (--run-id)."""
    report = _on_run(experiment, run_id, as_json, None)
    if genai:
        from ilp_mlflow import tracking
        from ilp_mlflow.genai import export

        click.echo(f"samples as traces: {tracking.evaluation_link(export(report, genai))}", err=True)


def _on_run(
    experiment: Path | None,
    run_id: str,
    as_json: bool,
    verb: str | None,
    *sections: str,
    launch: str = "",
    alone: bool = False,
    **options: Any,
) -> Any:
    """Call a verb on a trained run, with `sections` as the file has them now, and show the report, which is returned.

    `alone`: the run that MLflow made for this process is for one part of that; there is no report of that.
    """
    from ilp_mlflow import config

    if not (experiment or run_id):
        raise ConfigError("give an experiment file, or the id of a run with --run-id")
    config_ = config.read(experiment, {"launch": launch}) if experiment else None
    _load_libraries()
    from ilp_mlflow import pipeline, tracking

    tracking.point(config_.tracking if config_ else config.TrackingConfig())
    found = tracking.find_parent(config_.name if config_ else "", run_id or None, keep=alone)
    if config_ and verb:  # the lab's files are of the seed with which the run was trained
        config_ = _located(config_.model_copy(update={"seed": pipeline.recorded(None, found).seed}))
    config_ = pipeline.recorded(config_, found, *sections)
    failed = None
    try:
        if verb == "mitigate":
            pipeline.mitigate(config_, found, experiment.resolve() if experiment else Path(), **options)
        elif verb:
            getattr(pipeline, verb)(config_, found)
    except StepFailed as error:
        failed = error
    if alone and failed:
        raise failed
    if alone:
        return None
    report = pipeline.make_report(config_, found)
    _print_report(report, as_json)
    if failed:
        raise failed
    return report


@main.command("compare")
@click.argument("run_a")
@click.argument("run_b")
@click.option("--max-regressed", type=click.FloatRange(min=0), help="Exit with 1 beyond this share (below 1) or number of samples.")
@JSON
def compare_command(run_a: str, run_b: str, max_regressed: float | None, as_json: bool) -> None:
    """Say what became of every sample from RUN_A to RUN_B: diagnosed runs, or runs of mitigations."""
    _quiet()
    from ilp_mlflow import comparison

    found = comparison.compare(run_a, run_b)
    lines = [f"{name:<12} {len(ids):>7}  {', '.join(ids[:3])}"[:80].rstrip() for name, ids in found.items() if name != "p_value"]
    lines += ["", f"McNemar: p = {found['p_value']:.2g} that recovered and regressed samples are as many by chance"]
    _print(found, "\n".join(lines), as_json)
    if max_regressed is None:
        return
    learned = len(found["kept"]) + len(found["regressed"]) or 1
    if len(found["regressed"]) > (max_regressed * learned if max_regressed < 1 else max_regressed):
        click.echo(f"ilp: {len(found['regressed'])} samples regressed, more than --max-regressed {max_regressed:g}", err=True)
        sys.exit(1)


@main.command("lab")
@click.argument("experiment", required=False, default="experiments/lab.yaml", type=click.Path(path_type=Path))
@SEED
@click.option("--seeds", default="", metavar="A,B,...", help="Run each of these, and again with every cause removed in turn.")
@click.option("--mitigate", default="", help="'all': try every installed mitigation; 'auto': composed, and as an oracle would.")
@JSON
def lab_command(experiment: Path, seed: str, seeds: str, mitigate: str, as_json: bool) -> None:
    """Run the lab, in which it is known why each sample will not be learned; EXPERIMENT is experiments/lab.yaml unless given."""
    from ilp_mlflow import config

    if seed and seeds:
        raise ConfigError("--seed and --seeds: give one of them; --seeds also runs every lab with each cause removed")
    if mitigate not in ("", "all", "auto"):
        raise ConfigError(f"--mitigate {mitigate}: must be 'all' or 'auto'; for some of them set 'mitigations' in the file")
    if "" in (seeds or "0").split(","):
        raise ConfigError(f"--seeds {seeds}: a seed is missing; write them as 3,4,5")
    labs = [config.read(experiment, {"seed": s.strip()}) for s in (seeds or seed).split(",")]
    if not config.is_lab(labs[0]):
        raise ConfigError(f"{experiment}: not a lab: nothing in it is located at '{config.LAB}...'; see experiments/lab.yaml")
    _load_libraries(labs[0])
    from ilp_mlflow.lab import table, trial

    documents, texts = [], []
    for lab in labs:
        tried = trial.all_mitigations(config.lab_size(lab)) if mitigate else None
        report, made, found = trial.run(lab, experiment, tried, composed=mitigate == "auto")
        if seeds:
            found = trial.counterfactuals(lab, experiment, made, found)
        documents.append(found)
        texts.append(
            table.benchmark(found) if seeds else "\n".join([_report_text(report), "", table.truth(found), *_links(report.run_id)])
        )
        texts += [table.composed(found["auto"])] if "auto" in found else [table.mitigations(found)] if mitigate else []
    _print({"seeds": documents}, "\n\n".join(texts), as_json)


@main.command("score")
@CHECKPOINTS
@click.option("--data", required=True, help="JSONL, CSV or Parquet file, data set folder, or where MLflow finds one.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Parquet file to write.")
@_scoring
@click.option("--no-cache", is_flag=True, help="Score afresh, even what was scored before with the same weights.")
@SEED
@JSON
def score_command(
    checkpoints: tuple[str, ...], data: str, out: Path, no_cache: bool, seed: str, as_json: bool, **scoring: str
) -> None:
    """Score samples under models trained anywhere; no experiment needed."""
    from ilp_mlflow import config, dataset, elsewhere

    locations = {c.name: c.model_uri for c in elsewhere.checkpoints(checkpoints)}
    if out.suffix != ".parquet" or not out.parent.is_dir():
        raise ConfigError(f"--out {out}: must be a .parquet file in a folder that exists")
    options = config.parameters(config.ScoringConfig, scoring)
    _quiet()
    samples = dataset.load("data", config.DataConfig(path=data))
    number = config.parameters(config.Seed, {"seed": seed}).seed
    import pyarrow.parquet as pq

    from ilp_mlflow import measure, models, verdict
    from ilp_mlflow.recognition import recognition

    models.pick_device(options.device)
    wrong = measure.wrong_answers(samples, locations, options, number, cached=not no_cache)
    scores = measure.score(samples, wrong, locations, options, number, cached=not no_cache)
    pq.write_table(scores, out)
    shares = verdict.retention(scores, {s.id: "data" for s in samples}, list(locations), options.preset, number)["data"]
    won = recognition(scores, list(locations))
    lines = [
        f"{name:<20} {share:6.1%} learned"
        + (f", right option wins {won['sum'][name]:6.1%}, prompt blanked {won['blank'][name]:6.1%}" if name in won["sum"] else "")
        for name, share in shares.items()
    ]
    document = {"out": str(out), "samples": len(samples), "preset": options.preset, "learned": shares, "recognition": won}
    _print(document, "\n".join([*lines, f"{len(samples)} samples, scores in {out}"]), as_json)


@main.command("stages")
@click.argument("experiment", required=False, default="")
@JSON
def stages_command(experiment: str, as_json: bool) -> None:
    """List registered stages and their lineage; EXPERIMENT is a name or an experiment file."""
    from ilp_mlflow import config

    tracking_config, name = config.TrackingConfig(), experiment or None
    if experiment.endswith((".yaml", ".yml")):
        read = config.read(experiment)
        tracking_config, name = read.tracking, read.name
    _quiet()
    from ilp_mlflow import catalog, tracking

    tracking.point(tracking_config)
    rows = catalog.lineage(name)
    lines = [
        f"{r['uri']:<40} from {r['parent']}  (base {r['base']}, data {str(r['data_digest'])[:12]}, run {r['run_id']})" for r in rows
    ]
    _print(rows, "\n".join(lines) or "no registered stages", as_json)


@main.command("plugins")
@JSON
def plugins_command(as_json: bool) -> None:
    """List installed diagnostics and mitigations with their options, and those that cannot be used and why."""
    from ilp_mlflow import registry

    found = registry.installed("diagnostic") + registry.installed("mitigation")
    good = [
        {"name": p.name, "kind": p.kind, "distribution": p.distribution, "options": dict(p.options)}
        for p in found
        if p.error is None
    ]
    bad = [{"name": p.name, "distribution": p.distribution, "error": p.error} for p in found if p.error is not None]
    _print({"plugins": good, "failed": bad}, registry.listing(found), as_json)


@main.command("doctor")
@JSON
def doctor_command(as_json: bool) -> None:
    """Say what this machine offers and what would stand in the way of a run."""
    import platform
    from importlib.metadata import version

    _quiet()
    import torch

    from ilp_mlflow import models, registry, tracking

    packages = ("ilp-mlflow", "torch", "transformers", "trl", "peft", "mlflow")
    found = {"python": platform.python_version(), **{name: version(name) for name in packages}}
    found |= {"device": models.pick_device("auto"), "threads": str(torch.get_num_threads()), **tracking.doctor()}
    failed = [
        f"{p.name} ({p.distribution}): {p.error}" for k in ("diagnostic", "mitigation") for p in registry.installed(k) if p.error
    ]
    found["plugins"] = "; ".join(failed) or "all import"
    _print(found, "\n".join(f"{name:<14} {value}" for name, value in found.items()), as_json)


def _located(experiment: Experiment) -> Experiment:
    """The experiment with the files the lab makes for it, if it asks for any."""
    from ilp_mlflow import config

    if not config.is_lab(experiment):
        return experiment
    from ilp_mlflow.lab import files

    return files.resolve(experiment)[0]


def _quiet(experiment: Experiment | None = None) -> None:
    """Keep the libraries' own bars, banners and retries off the terminal, and a lab on one thread."""
    from ilp_mlflow import config

    if experiment and config.is_lab(experiment):
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # its model is so small that threads wait for each other
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import logging
    import warnings

    warnings.filterwarnings("ignore")
    for name in ("transformers", "trl", "datasets", "huggingface_hub", "accelerate", "peft", "httpx"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _load_libraries(experiment: Experiment | None = None) -> None:
    """Import what takes seconds to import, under a bar."""
    _quiet(experiment)
    from ilp_mlflow.progress import task

    with task("load libraries"):
        import ilp_mlflow.pipeline  # noqa: F401


def _print(document: Any, text: str, as_json: bool) -> None:
    click.echo(json.dumps(document, indent=2, default=str) if as_json else text)


def _print_report(found: Any, as_json: bool, more: str = "") -> None:
    text = "\n".join(["", _report_text(found), *(["", more] if more else []), *_links(found.run_id)])
    _print(found.model_dump(mode="json"), text, as_json)


def _report_text(found: Any) -> str:
    from ilp_mlflow import report

    return report.summary(found)


def _links(run_id: str) -> list[str]:
    from ilp_mlflow import tracking

    hint = tracking.serve_hint()
    return [
        "",
        *([f"open the MLflow UI:  {hint}"] if hint else []),
        f"then go to:  {tracking.link(run_id)}" if hint else tracking.link(run_id),
    ]
