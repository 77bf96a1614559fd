import mlflow
import pytest
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from ilp_mlflow.core.errors import TrackingError
from ilp_mlflow.core.values import Diagnosis, Evidence, Sample, Score, Verdict, to_table
from ilp_mlflow.data.samples import samples_to_table
from ilp_mlflow.report.mlflow_traces import export_traces
from ilp_mlflow.tracking import runs
from tests.conversations import chat
from tests.report import test_summary

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:mlflow")

PROMPTS = {"a": "p </script> a", "b": chat(user="p b"), "c": "p c"}
VERDICTS = tuple(
    Verdict(sample_id=i, status=s, reason="why")
    for i, s in zip("abc", ("learned", "unlearned", "unlearned"), strict=True)
)


@pytest.fixture
def found(store):
    """The report of a run that has the tables it was made from."""
    answers = {
        i: f"q {i}" if isinstance(p, str) else chat(assistant=f"q {i}") for i, p in PROMPTS.items()
    }
    samples = [
        Sample(id=i, stage="one", prompt=p, completion=answers[i]) for i, p in PROMPTS.items()
    ]
    scores = [
        Score(sample_id=i, checkpoint=n, p_correct=0.2, p_wrong=0.7, wrong=f"w {i}")
        for i in "ab"
        for n in ("base", "two")
    ]
    scores += [Score(sample_id="c", checkpoint=n) for n in ("base", "two")]
    with runs.start("x", "experiment") as run_id:
        runs.write(run_id, "samples.parquet", samples_to_table(samples))
        runs.write(run_id, "scores.parquet", to_table(scores, Score))
    # a plugin may be named otherwise than the cause it speaks for
    evidence = {"plugin": Evidence(cause="k", strength=0.9, reason="because")}
    diagnoses = (
        Diagnosis(verdict=VERDICTS[1], cause="k", reason="because", evidence=evidence),
        Diagnosis(verdict=VERDICTS[2], evidence={}),
    )
    return test_summary.report(run_id=run_id, verdicts=VERDICTS, diagnoses=diagnoses)


def traces(run_id):
    experiment = mlflow.get_run(run_id).info.experiment_id
    return mlflow.search_traces(locations=[experiment], run_id=run_id, return_type="list")


def test_every_sample_is_a_trace_the_unlearned_ones_in_front(found):
    run_id = export_traces(found, 200)
    there = traces(run_id)
    assert [t.info.tags["ilp.sample_id"] for t in there] == ["b", "c", "a"]
    said = [{a.name: (a.value, a.rationale) for a in t.info.assessments} for t in there]
    assert [s["expected_response"][0] for s in said] == ["q b", "q c", "q a"]
    assert [s["learned"] for s in said] == [("no", "why"), ("no", "why"), ("yes", "why")]
    assert [s.get("cause") for s in said] == [("k", "because"), ("unexplained", None), None]
    spans = [t.data.spans[0] for t in there]
    assert [s.inputs for s in spans] == [
        {"messages": [{"role": "user", "content": "p b"}]},
        {"prompt": "p c"},
        {"prompt": "p </script> a"},
    ]
    assert [s.outputs for s in spans] == [{"prefers": "w b"}, None, {"prefers": "w a"}]
    assert runs.parent_of(run_id) == found.run_id
    assert mlflow.get_run(run_id).data.tags["mlflow.runType"] == "genai_evaluate"


def test_the_same_samples_are_there_once(found):
    first = export_traces(found, 2)
    assert export_traces(found, 2) == first
    assert len(traces(first)) == 2
    assert export_traces(found, 3) != first


def test_a_limit_keeps_the_unlearned_ones(found):
    assert [t.info.tags["ilp.sample_id"] for t in traces(export_traces(found, 1))] == ["b"]


def test_a_row_that_does_not_arrive_is_an_error(found, monkeypatch):
    kept = SqlAlchemyStore.start_trace

    def busy(self, trace_info):
        if "p c" in str(trace_info.request_preview):
            raise OSError("database is locked")
        return kept(self, trace_info)

    monkeypatch.setattr(SqlAlchemyStore, "start_trace", busy)
    with pytest.raises(TrackingError, match="1 of 3 samples, such as 'c', did not arrive"):
        export_traces(found, 200)
