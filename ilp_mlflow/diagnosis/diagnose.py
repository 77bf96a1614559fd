"""Everything known of a run, the diagnostics that are asked about it, and what they say."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from ilp_mlflow.core import plugin_loader
from ilp_mlflow.core.config import Experiment
from ilp_mlflow.core.errors import PluginError
from ilp_mlflow.core.interfaces import Context, Diagnostic
from ilp_mlflow.core.progress import task
from ilp_mlflow.core.values import Diagnosis, Evidence, Sample, as_json
from ilp_mlflow.diagnosis import paper_preset
from ilp_mlflow.diagnosis.attribution import (
    TABLE_COLUMNS,
    UNEXPLAINED,
    attribute,
    cause_shares,
    diagnosis_table,
    discount_without_ledger,
)
from ilp_mlflow.diagnosis.context import build_context as known_of
from ilp_mlflow.scoring.metrics import (
    backward_transfer,
    forgetting_by_stage,
    recognition_shares,
)
from ilp_mlflow.scoring.verdicts import (
    Preset,
    retention_by_stage,
    status_histories,
)
from ilp_mlflow.tracking import model_registry, runs
from ilp_mlflow.tracking.dataset_inputs import dataset_id

UI_ROWS = 1000
"""Rows of the table that the MLflow UI shows; all rows are in Parquet."""


def diagnose_run(
    experiment: Experiment, run_id: str, samples: Sequence[Sample], preset: str = "default"
) -> list[Diagnosis]:
    """What `diagnose` would say of `samples` of a diagnosed run by the causes of `preset`; nothing is logged. Raises IlpError."""
    plugins = plugin_loader.configure("diagnostic", experiment.diagnostics)
    scores = runs.read_table(run_id, "scores.parquet")
    return _asked(
        plugins,
        known_of(experiment, samples, runs.read_checkpoints(run_id), scores, run_id),
        preset,
        None,
    )


def diagnose_and_log(
    run_id: str,
    plugins: Mapping[str, Diagnostic],
    context: Context,
    preset: Preset,
    seed: int,
    beside: str | None = None,
) -> tuple[list[Diagnosis], dict[str, float]]:
    """Ask `plugins` (in the preset `paper` the study's own tests) about every unlearned sample, and log what they say on the run.

    What is logged there goes to the run `beside`, too, as far as the UI shows it: metrics, which there are tied to models and data
    sets, and the table. Returned are the diagnoses and the metrics `unlearned_rate`, `cause/<name>`, `forgetting/<stage>` and
    `backward_transfer`. A diagnostic that raises is reported on the run and left out.
    """
    found = _asked(plugins, context, preset, run_id)
    samples, names = list(context.samples.values()), [c.name for c in context.checkpoints]
    rule = names, preset, seed
    with task("log diagnoses", 3) as advance:
        shares = retention_by_stage(context.scores, {s.id: s.stage for s in samples}, *rule)
        metrics = _metrics(found, len(samples), shares)
        earlier = {name: 0.0 for name in runs.metrics(run_id) if name.startswith("cause/")}
        runs.log(run_id, metrics=earlier | metrics)
        leaks = recognition_shares(context.scores, names)["blank"]
        for step, name in enumerate(names):
            learned = {f"learned/{stage}": row[name] for stage, row in shares.items()}
            runs.log(
                run_id,
                metrics=learned | ({"leak": leaks[name]} if name in leaks else {}),
                step=step,
            )
        if beside:
            _tie(beside, context, metrics, shares)
        advance(1)
        table = diagnosis_table(
            samples, context.verdicts, status_histories(context.scores, *rule), names, found
        )
        runs.write(run_id, "diagnosis.parquet", table)
        for shown in (run_id, beside) if beside else (run_id,):
            runs.write_ui_table(shown, "diagnosis.json", table.slice(0, UI_ROWS))
        advance(1)
        runs.write(run_id, "diagnoses.json", as_json(found))
        advance(1)
    return found, metrics


def _metrics(
    found: Sequence[Diagnosis], total: int, shares: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    """What a run says of its diagnoses in numbers; `shares` are the learned ones by stage and checkpoint."""
    metrics = {"unlearned_rate": len(found) / total}
    metrics |= {f"cause/{cause}": share for cause, share in cause_shares(found, total).items()}
    metrics |= {f"forgetting/{stage}": lost for stage, lost in forgetting_by_stage(shares).items()}
    transfer = backward_transfer(shares)
    return metrics if transfer is None else {**metrics, "backward_transfer": transfer}


def _tie(
    run_id: str,
    context: Context,
    metrics: Mapping[str, float],
    shares: Mapping[str, Mapping[str, float]],
) -> None:
    """Log metrics on a run together with the models and data sets that they are of."""
    ids = [model_registry.model_id(c.model_uri) for c in context.checkpoints]
    model_registry.log_model_inputs(run_id, [c.model_uri for c in context.checkpoints])
    runs.log(run_id, metrics=metrics, model=ids[-1])
    for stage in context.stages:
        data = dataset_id(stage.name, stage.samples)
        for step, (checkpoint, model) in enumerate(zip(context.checkpoints, ids, strict=True)):
            learned = {f"learned/{stage.name}": shares[stage.name][checkpoint.name]}
            runs.log(run_id, metrics=learned, step=step, model=model, data=data)


def _asked(
    plugins: Mapping[str, Diagnostic], context: Context, preset: str, run_id: str | None
) -> list[Diagnosis]:
    """A diagnosis of every unlearned sample: by the evidence of `plugins`, in the preset `paper` by the study's own tests.

    A diagnostic that raises is left out, told, and noted on the run.
    """
    unlearned = [s for i, s in context.samples.items() if context.verdicts[i].status == "unlearned"]
    verdicts = [context.verdicts[i] for i in context.samples]
    weighed = discount_without_ledger if context.exposures is None else dict
    if preset == "paper":
        return attribute(
            verdicts, weighed(paper_preset.examine(unlearned, context)), paper_preset.ORDER
        )
    evidence = {}
    with task("diagnostics", len(plugins)) as advance:
        for name, plugin in plugins.items():
            try:
                with task(name):
                    evidence[name] = _examine(plugin, unlearned, context)
            except Exception as error:  # a plugin may fail in any way, alone
                print(
                    f"ilp: diagnostic '{name}' failed and is left out: {type(error).__name__}: {error}",
                    file=sys.stderr,
                )
                if run_id:
                    runs.log(
                        run_id,
                        tags={f"ilp.failed.{name}": f"{type(error).__name__}: {error}"[:500]},
                    )
            advance(1)
    return attribute(verdicts, weighed(evidence))


def _examine(
    plugin: Diagnostic, unlearned: Sequence[Sample], context: Context
) -> Mapping[str, Evidence]:
    found = plugin.examine(unlearned, context)
    for evidence in found.values():
        if not isinstance(evidence, Evidence) or evidence.cause in (*TABLE_COLUMNS, UNEXPLAINED):
            raise PluginError(f"not evidence with a cause of its own: {evidence!r}")
    strangers = set(found) - {s.id for s in unlearned}
    if strangers:
        raise PluginError(f"evidence for '{min(strangers)}', which it was not asked about")
    return found
