"""Ask the diagnostics about every unlearned sample of a run, attribute causes, and log them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ilp_mlflow.core import plugin_loader
from ilp_mlflow.core.config import DEFAULT_MAX_WRONG, Experiment
from ilp_mlflow.core.errors import PluginError
from ilp_mlflow.core.interfaces import Context, Diagnostic
from ilp_mlflow.core.terminal.progress import task
from ilp_mlflow.core.values import Diagnosis, Evidence, Finding, Sample, Status, Subject, as_json
from ilp_mlflow.diagnosis import paper_preset
from ilp_mlflow.diagnosis.attribution import (
    TABLE_COLUMNS,
    UNEXPLAINED,
    attribute,
    cause_shares,
    diagnosis_table,
    discount_without_ledger,
)
from ilp_mlflow.diagnosis.context import build_context, read_facts
from ilp_mlflow.diagnosis.faults.fault import Fault, read_faults
from ilp_mlflow.diagnosis.faults.find import find_faults
from ilp_mlflow.diagnosis.findings import check_subject, spread_findings
from ilp_mlflow.diagnosis.installed_causes import FAULT_CAUSES, cause_info
from ilp_mlflow.diagnosis.strengths import as_probabilities, read_strengths
from ilp_mlflow.scoring.metrics import backward_transfer, recognition_shares
from ilp_mlflow.scoring.verdicts.timeline import (
    forgetting_by_stage,
    retention_by_stage,
    status_histories,
    unscored_by_stage,
)
from ilp_mlflow.tracking import model_registry, runs
from ilp_mlflow.tracking.dataset_inputs import dataset_id

if TYPE_CHECKING:
    import pyarrow as pa

UI_ROWS = 1000
"""Rows of the table that the MLflow UI shows; all rows are in Parquet."""
MAX_ERROR_CHARS = 500
"""Characters of a diagnostic's error that its run keeps."""
LearnedMetrics = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Metrics of what was learned, by stage, then checkpoint."""


class Explanation(NamedTuple):
    """What the diagnostics say of a run."""

    diagnoses: list[Diagnosis]
    """One per unlearned sample."""
    findings: list[Finding]
    """What is true of whole stages, checkpoints or the run."""


def diagnose_run(
    experiment: Experiment, run_id: str, samples: Sequence[Sample], preset: str = "default"
) -> list[Diagnosis]:
    """What `diagnose` would say of `samples` of a diagnosed run by the causes of `preset`.

    Nothing is logged. Raises IlpError.
    """
    plugins = plugin_loader.configure("diagnostic", experiment.diagnostics)
    checkpoints = runs.read_checkpoints(run_id)
    context = build_context(experiment, samples, checkpoints, run_id)
    faults = find_faults(read_facts(run_id, context, experiment.tokenizer))
    return _explain(plugins, context, preset, None, faults, experiment.max_wrong).diagnoses


def diagnose_and_log(
    run_id: str,
    plugins: Mapping[str, Diagnostic],
    context: Context,
    judgements: pa.Table,
    preset: str = "default",
    beside: str | None = None,
    faults: Sequence[Fault] = (),
    max_wrong: float = DEFAULT_MAX_WRONG,
) -> tuple[list[Diagnosis], dict[str, float]]:
    """Ask `plugins` about every unlearned sample, and log what they say on the run.

    `judgements` are what its verdicts go by. Samples of `faults` that stop their diagnosis are not
    asked about.
    In the preset `paper` the study's own tests are asked instead. What the UI shows of it goes to
    the run `beside`, too: the table, and the metrics, which are tied to models and data sets there.
    Returned are the diagnoses and the metrics `unlearned_rate`, `cause/<name>`,
    `forgetting/<stage>` and `backward_transfer`, shares of the samples that are scored, and where
    some are not, their number `unscored`. A diagnostic that raises is reported on the run
    and left out.
    """
    explanation = _explain(plugins, context, preset, run_id, faults, max_wrong)
    metrics = log_diagnoses(run_id, explanation.diagnoses, context, judgements, beside)
    runs.write(run_id, "findings.json", as_json(explanation.findings))
    return explanation.diagnoses, metrics


def log_diagnoses(
    run_id: str,
    diagnoses: Sequence[Diagnosis],
    context: Context,
    judgements: pa.Table,
    beside: str | None = None,
) -> dict[str, float]:
    """Log diagnoses on the run, in place of earlier ones; what the UI shows on `beside`, too.

    Returned are the metrics, as of `diagnose_and_log`.
    """
    samples = list(context.samples.values())
    names = [c.name for c in context.checkpoints]
    with task("log diagnoses", 3) as advance:
        stage_by_id = {s.id: s.stage for s in samples}
        judged = judgements, stage_by_id, names
        learned = _learned_by_stage(retention_by_stage(*judged), unscored_by_stage(*judged))
        statuses = [verdict.status for verdict in context.verdicts.values()]
        metrics = _metrics(diagnoses, statuses, forgetting_by_stage(*judged))
        # A metric stays on its run: causes of an earlier diagnosis that are none now become 0.
        earlier = [name for name in runs.metrics(run_id) if _is_gone(name, metrics)]
        runs.log(run_id, metrics={**dict.fromkeys(earlier, 0.0), **metrics})
        _log_learned(run_id, context, learned)
        if beside:
            _log_tied(beside, context, metrics, learned)
        advance(1)
        histories = status_histories(judgements, names)
        table = diagnosis_table(samples, context.verdicts, histories, names, diagnoses)
        runs.write(run_id, "diagnosis.parquet", table)
        # The UI loads its table whole, so it gets the first rows only: those of unlearned samples.
        for shown in (run_id, beside) if beside else (run_id,):
            runs.write_ui_table(shown, "diagnosis.json", table.slice(0, UI_ROWS))
        advance(1)
        runs.write(run_id, "diagnoses.json", as_json(diagnoses))
        advance(1)
    return metrics


def _metrics(
    diagnoses: Sequence[Diagnosis],
    statuses: Sequence[Status],
    forgetting: Mapping[str, float | None],
) -> dict[str, float]:
    """What a run says of its diagnoses in numbers: shares 0..1 of the samples that are scored.

    `unscored` is the number of the others, left out where it is 0.
    """
    metrics = {}
    n_unscored = statuses.count("unscored")
    n_scored = len(statuses) - n_unscored
    if n_scored:
        # First, since the UI's compare page takes the first metric for its axis.
        metrics["unlearned_rate"] = len(diagnoses) / n_scored
        for cause, share in cause_shares(diagnoses, n_scored).items():
            metrics[f"cause/{cause}"] = share
    if n_unscored:
        metrics["unscored"] = float(n_unscored)
    for stage, lost in forgetting.items():
        if lost is not None:
            metrics[f"forgetting/{stage}"] = lost
    transfer = backward_transfer(forgetting)
    if transfer is not None:
        metrics["backward_transfer"] = transfer
    return metrics


def _is_gone(metric: str, metrics: Mapping[str, float]) -> bool:
    """Whether a metric of an earlier diagnosis would be a count or share of nothing now."""
    return metric.startswith("cause/") or (metric == "unscored" and metric not in metrics)


def _learned_by_stage(
    retention: Mapping[str, Mapping[str, float | None]],
    unscored: Mapping[str, Mapping[str, int]],
) -> dict[str, dict[str, dict[str, float]]]:
    """The metrics `learned/<stage>` and `unscored/<stage>`, by stage, then checkpoint.

    The first is left out where no sample of the stage is scored, the second where all are under
    every checkpoint.
    """
    metrics: dict[str, dict[str, dict[str, float]]] = {}
    for stage, shares in retention.items():
        metrics[stage] = {}
        has_unscored = any(unscored[stage].values())
        for name, share in shares.items():
            of_checkpoint = {} if share is None else {f"learned/{stage}": share}
            if has_unscored:
                of_checkpoint[f"unscored/{stage}"] = float(unscored[stage][name])
            metrics[stage][name] = of_checkpoint
    return metrics


def _log_learned(run_id: str, context: Context, learned: LearnedMetrics) -> None:
    """Log what was learned of each stage and how far options give answers away, by checkpoint."""
    names = [c.name for c in context.checkpoints]
    leaks = recognition_shares(context.scores, names)["blank"]
    # A step per checkpoint, so that the UI draws curves.
    for step, name in enumerate(names):
        metrics: dict[str, float] = {}
        for by_checkpoint in learned.values():
            metrics.update(by_checkpoint[name])
        if name in leaks:
            metrics["leak"] = leaks[name]
        runs.log(run_id, metrics=metrics, step=step)


def _log_tied(
    run_id: str, context: Context, metrics: Mapping[str, float], learned: LearnedMetrics
) -> None:
    """Log metrics on a run together with the models and data sets that they are of."""
    model_ids = [model_registry.model_id(c.model_uri) for c in context.checkpoints]
    model_registry.log_model_inputs(run_id, [c.model_uri for c in context.checkpoints])
    runs.log(run_id, metrics=metrics, model=model_ids[-1])
    for stage in context.stages:
        data = dataset_id(stage.name, stage.samples)
        for step, checkpoint in enumerate(context.checkpoints):
            of_stage = learned[stage.name][checkpoint.name]
            runs.log(run_id, metrics=of_stage, step=step, model=model_ids[step], data=data)


def _explain(
    plugins: Mapping[str, Diagnostic],
    context: Context,
    preset: str,
    run_id: str | None,
    faults: Sequence[Fault] = (),
    max_wrong: float = DEFAULT_MAX_WRONG,
) -> Explanation:
    """A diagnosis of every unlearned sample, and what is true of more than one.

    The evidence is that of `faults` and of `plugins`, in the preset `paper` that of the study's own
    tests alone.
    """
    verdicts = []
    unlearned = []
    for id_, sample in context.samples.items():
        verdicts.append(context.verdicts[id_])
        if context.verdicts[id_].status == "unlearned":
            unlearned.append(sample)
    findings: list[Finding] = []
    strengths = read_strengths()
    if preset == "paper":
        evidence = paper_preset.examine(unlearned, context)
        order = {cause: place for place, cause in enumerate(paper_preset.ORDER)}
        if context.exposures is None:
            evidence = discount_without_ledger(evidence)
    else:
        said = read_faults(faults)
        asked_about = [sample for sample in unlearned if sample.id not in said.stopped]
        answers = _ask_all(plugins, asked_about, context, run_id)
        order = {cause.name: cause.order for cause in FAULT_CAUSES}
        for name, plugin in plugins.items():
            order[name] = cause_info(name, type(plugin)).order
        # Before they are spread, so that a finding is as sure as what it says of its samples.
        answers = as_probabilities(answers, strengths)
        if context.exposures is None:
            answers = discount_without_ledger(answers)
        evidence = dict(said.by_kind)
        findings += said.findings
        for name, answer in answers.items():
            evidence[name], about_subjects = spread_findings(answer, asked_about, context)
            findings += about_subjects
    named_from = strengths.named_from(max_wrong)
    return Explanation(attribute(verdicts, evidence, order, named_from), findings)


def _ask_all(
    plugins: Mapping[str, Diagnostic],
    unlearned: Sequence[Sample],
    context: Context,
    run_id: str | None,
) -> dict[str, dict[str | Subject, Evidence]]:
    """What each diagnostic finds, by its name.

    One that raises is left out, told, and noted on the run.
    """
    answers: dict[str, dict[str | Subject, Evidence]] = {}
    if not unlearned:
        return answers
    with task("diagnostics", len(plugins)) as advance:
        for name, plugin in plugins.items():
            try:
                with task(name):
                    answers[name] = _examine(plugin, unlearned, context)
            except Exception as error:  # a plugin may fail in any way, alone
                fault = f"{type(error).__name__}: {error}"
                print(f"ilp: diagnostic '{name}' failed and is left out: {fault}", file=sys.stderr)
                if run_id:
                    runs.log(run_id, tags={f"ilp.failed.{name}": fault[:MAX_ERROR_CHARS]})
            advance(1)
    return answers


def _examine(
    plugin: Diagnostic, unlearned: Sequence[Sample], context: Context
) -> dict[str | Subject, Evidence]:
    """What one diagnostic finds. Raises PluginError for what no diagnostic may answer."""
    unlearned_ids = {s.id for s in unlearned}
    answer: dict[str | Subject, Evidence] = {}
    for key, evidence in plugin.examine(unlearned, context).items():
        # A cause becomes a column of the table: no other may have its name.
        if not isinstance(evidence, Evidence) or evidence.cause in (*TABLE_COLUMNS, UNEXPLAINED):
            raise PluginError(f"not evidence with a cause of its own: {evidence!r}")
        if isinstance(key, Subject):
            check_subject(key, context)
        elif key not in unlearned_ids:
            raise PluginError(f"evidence for '{key}', which it was not asked about")
        answer[key] = evidence
    return answer
