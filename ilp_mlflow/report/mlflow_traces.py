"""Samples of a report in MLflow's GenAI evaluation view: a trace for each, with its verdict and cause as assessments."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

import mlflow
import pyarrow as pa
import pyarrow.compute as pc
from mlflow.entities import AssessmentSource, Trace
from mlflow.tracing.constant import AssessmentMetadataKey
from mlflow.utils.mlflow_tags import MLFLOW_RUN_TYPE, MLFLOW_RUN_TYPE_GENAI_EVALUATE

from ilp_mlflow.core.errors import TrackingError
from ilp_mlflow.core.progress import task
from ilp_mlflow.core.values import Diagnosis, Report, Sample, Score, Verdict, to_rows
from ilp_mlflow.data.samples import samples_from_table
from ilp_mlflow.diagnosis.attribution import UNEXPLAINED
from ilp_mlflow.report.sample_browser import FIRST
from ilp_mlflow.tracking import runs

os.environ.setdefault(
    "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false"
)  # SQLite has one writer at a time

SOURCE = AssessmentSource("CODE", "ilp")
SAID = {"learned": "yes", "unlearned": "no"}
"""What `learned` says of a status, as MLflow's own judges say it; the other statuses as they are."""


def export_traces(report: Report, limit: int) -> str:
    """Log at most `limit` samples, unlearned ones first, on a child of the report's run, or find them there, and return its id.

    Raises TrackingError when not every one of them is there in the end: MLflow only warns of traces that it could not store.
    """
    samples = {
        s.id: s for s in samples_from_table(runs.read_table(report.run_id, "samples.parquet"))
    }
    scores = runs.read_table(report.run_id, "scores.parquet")
    diagnoses = {d.verdict.sample_id: d for d in report.diagnoses}
    chosen = sorted(report.verdicts, key=lambda v: FIRST.index(v.status))[:limit]
    said = repr([(v, diagnoses.get(v.sample_id)) for v in chosen])
    view = {"ilp.view": hashlib.sha256(said.encode()).hexdigest()}
    if there := runs.find_finished(report.run_id, view):
        return there
    asked = pc.is_in(scores["sample_id"], pa.array([v.sample_id for v in chosen]))
    last = pc.equal(scores["checkpoint"], report.checkpoints[-1].name)
    scored = {s.sample_id: s for s in to_rows(scores.filter(pc.and_(asked, last)), Score)}
    with runs.start("evaluation view", "evaluation", parent=report.run_id) as run_id:
        runs.log(run_id, tags={MLFLOW_RUN_TYPE: MLFLOW_RUN_TYPE_GENAI_EVALUATE, **view})
        with task("log traces", len(chosen)) as advance:
            for verdict in reversed(chosen):  # the view lists the newest first
                id_ = verdict.sample_id
                _trace(samples[id_], verdict, scored[id_], diagnoses.get(id_), run_id)
                advance(1)
        mlflow.flush_trace_async_logging()
        _count(chosen, run_id)
    return run_id


def _trace(
    sample: Sample, verdict: Verdict, score: Score, diagnosis: Diagnosis | None, run_id: str
) -> None:
    """One trace with all its assessments, in one request: it is there as a whole or not at all."""
    prompt = sample.prompt
    with mlflow.start_span("sample") as span:
        given = {
            "trace_id": span.trace_id,
            "source": SOURCE,
            "metadata": {AssessmentMetadataKey.SOURCE_RUN_ID: run_id},
        }
        span.set_inputs(
            {"prompt": prompt}
            if isinstance(prompt, str)
            else {"messages": [turn.model_dump() for turn in prompt]}
        )
        if score.p_correct is not None and score.p_wrong is not None:
            span.set_outputs(
                {"prefers": sample.answer if score.p_correct > score.p_wrong else score.wrong}
            )
        mlflow.update_current_trace(tags={"ilp.sample_id": sample.id, "ilp.stage": sample.stage})
        mlflow.log_expectation(name="expected_response", value=sample.answer, **given)
        mlflow.log_feedback(
            name="learned",
            value=SAID.get(verdict.status, verdict.status),
            rationale=verdict.reason,
            **given,
        )
        if diagnosis:
            cause = diagnosis.cause
            reason = diagnosis.evidence[cause].reason if cause else None
            mlflow.log_feedback(name="cause", value=cause or UNEXPLAINED, rationale=reason, **given)


def _count(chosen: Sequence[Verdict], run_id: str) -> None:
    experiment = mlflow.get_run(run_id).info.experiment_id
    found: list[Trace] = mlflow.search_traces(
        locations=[experiment],
        run_id=run_id,
        max_results=len(chosen),
        include_spans=False,
        return_type="list",
    )
    wanted = {v.sample_id: 3 if v.status == "unlearned" else 2 for v in chosen}
    there = {trace.info.tags["ilp.sample_id"]: len(trace.info.assessments) for trace in found}
    missing = [id_ for id_, assessments in wanted.items() if there.get(id_) != assessments]
    if missing:
        raise TrackingError(
            f"{len(missing)} of {len(chosen)} samples, such as '{missing[0]}', did not arrive in the evaluation view of MLflow "
            f"(run {run_id}); see its warnings above, and try again"
        )
