"""Samples of a report as traces in MLflow's GenAI evaluation view, with verdict and cause."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any

import mlflow
import pyarrow as pa
import pyarrow.compute as pc
from mlflow.entities import AssessmentSource, Trace
from mlflow.tracing.constant import AssessmentMetadataKey
from mlflow.utils.mlflow_tags import MLFLOW_RUN_TYPE, MLFLOW_RUN_TYPE_GENAI_EVALUATE

from ilp_mlflow.core.errors import TrackingError
from ilp_mlflow.core.terminal.progress import task
from ilp_mlflow.core.texts import Text
from ilp_mlflow.core.values import Diagnosis, Report, Sample, Score, Verdict, to_rows
from ilp_mlflow.diagnosis.attribution import UNEXPLAINED
from ilp_mlflow.report.sample_browser import STATUS_ORDER
from ilp_mlflow.tracking import runs

# SQLite has one writer at a time.
os.environ.setdefault("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")

SOURCE = AssessmentSource("CODE", "ilp")
"""Who assesses: code, not a person or a judge."""
LEARNED_VALUES = {"learned": "yes", "unlearned": "no"}
"""Values of the assessment `learned`, in the words of MLflow's judges; other statuses stay."""


def export_traces(report: Report, limit: int) -> str:
    """Log samples as traces on a child of the report's run, and return the child's id.

    They are `limit` at most, unlearned ones first. A child that has the very same is found again.
    Raises TrackingError when not every one of them is there in the end: MLflow only warns of traces
    that it could not store.
    """
    diagnoses = {d.verdict.sample_id: d for d in report.diagnoses}
    chosen = sorted(report.verdicts, key=lambda v: STATUS_ORDER.index(v.status))[:limit]
    content = repr([(v, diagnoses.get(v.sample_id)) for v in chosen])
    view = {"ilp.view": hashlib.sha256(content.encode()).hexdigest()}
    finished = runs.find_finished(report.run_id, view)
    if finished:
        return finished
    samples = {sample.id: sample for sample in runs.read_samples(report.run_id)}
    scores = _last_scores(report, chosen)
    with runs.start("evaluation view", "evaluation", parent=report.run_id) as run_id:
        runs.log(run_id, tags={MLFLOW_RUN_TYPE: MLFLOW_RUN_TYPE_GENAI_EVALUATE, **view})
        with task("log traces", len(chosen)) as advance:
            # The view lists the newest first.
            for verdict in reversed(chosen):
                id_ = verdict.sample_id
                _log_trace(samples[id_], verdict, scores[id_], diagnoses.get(id_), run_id)
                advance(1)
        mlflow.flush_trace_async_logging()
        _check_arrival(chosen, run_id)
    return run_id


def _last_scores(report: Report, chosen: Sequence[Verdict]) -> dict[str, Score]:
    """Scores of the chosen samples under the last checkpoint, by sample id."""
    table = runs.read_table(report.run_id, "scores.parquet")
    is_chosen = pc.is_in(table["sample_id"], pa.array([v.sample_id for v in chosen]))
    is_last = pc.equal(table["checkpoint"], report.checkpoints[-1].name)
    scores = to_rows(table.filter(pc.and_(is_chosen, is_last)), Score)
    return {score.sample_id: score for score in scores}


def _log_trace(
    sample: Sample, verdict: Verdict, score: Score, diagnosis: Diagnosis | None, run_id: str
) -> None:
    """One trace with all its assessments, in one request: it is there as a whole or not at all."""
    # Assessments of a span that is still open are stored together with it.
    with mlflow.start_span("sample") as span:
        origin = {
            "trace_id": span.trace_id,
            "source": SOURCE,
            "metadata": {AssessmentMetadataKey.SOURCE_RUN_ID: run_id},
        }
        span.set_inputs(_inputs(sample.prompt))
        if score.p_correct is not None and score.p_wrong is not None:
            prefers_answer = score.p_correct > score.p_wrong
            span.set_outputs({"prefers": sample.answer if prefers_answer else score.wrong})
        mlflow.update_current_trace(tags={"ilp.sample_id": sample.id, "ilp.stage": sample.stage})
        mlflow.log_expectation(name="expected_response", value=sample.answer, **origin)
        mlflow.log_feedback(
            name="learned",
            value=LEARNED_VALUES.get(verdict.status, verdict.status),
            rationale=verdict.reason,
            **origin,
        )
        if diagnosis:
            mlflow.log_feedback(
                name="cause",
                value=diagnosis.cause or UNEXPLAINED,
                rationale=diagnosis.reason or None,
                **origin,
            )


def _inputs(prompt: Text) -> dict[str, Any]:
    if isinstance(prompt, str):
        return {"prompt": prompt}
    inputs: dict[str, Any] = {"messages": prompt.as_dicts()}
    if prompt.tools:
        inputs["tools"] = list(prompt.tools)
    return inputs


def _check_arrival(chosen: Sequence[Verdict], run_id: str) -> None:
    """Raise TrackingError when MLflow does not hold every trace with all its assessments."""
    traces: list[Trace] = mlflow.search_traces(
        locations=[mlflow.get_run(run_id).info.experiment_id],
        run_id=run_id,
        max_results=len(chosen),
        include_spans=False,
        return_type="list",
    )
    assessments = {t.info.tags["ilp.sample_id"]: len(t.info.assessments) for t in traces}
    missing = []
    for verdict in chosen:
        # Every sample has its answer and whether it is learned, an unlearned one its cause, too.
        expected = 3 if verdict.status == "unlearned" else 2
        if assessments.get(verdict.sample_id) != expected:
            missing.append(verdict.sample_id)
    if missing:
        raise TrackingError(
            f"{len(missing)} of {len(chosen)} samples, such as '{missing[0]}', did not arrive in "
            f"the evaluation view of MLflow (run {run_id}); see its warnings above, and try again"
        )
