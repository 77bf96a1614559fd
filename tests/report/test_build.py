import json

import pytest

from ilp_mlflow.core import config
from ilp_mlflow.core.errors import TrackingError
from ilp_mlflow.core.values import Checkpoint, Diagnosis, Evidence, Sample, Score, as_json, to_table
from ilp_mlflow.report.build import PACKAGES, build_report
from ilp_mlflow.tracking import runs
from tests.scoring.verdicts.judged_scores import judged

CHECKPOINTS = [Checkpoint(name="base", model_uri="m"), Checkpoint(name="first", model_uri="m1")]
GAPS = {"a": (-2.0, 3.0), "b": (-2.0, -1.0)}
"""Nats under each checkpoint, by sample."""


@pytest.fixture
def experiment(experiment_file):
    return config.read(experiment_file)


@pytest.fixture
def samples():
    return [Sample(id=i, stage="first", prompt="p", completion="c") for i in GAPS]


@pytest.fixture
def run_id(store, samples):
    """A run with what its steps leave on it."""
    scores = [
        Score(sample_id=i, checkpoint=c.name, tokens=2, token_accuracy=0.5, gap=gap, stops=True)
        for i, gaps in GAPS.items()
        for c, gap in zip(CHECKPOINTS, gaps, strict=True)
    ]
    with runs.start("tiny", "experiment") as id_:
        runs.write(id_, "scores.parquet", to_table(scores, Score))
        judgements = judged(scores, [c.name for c in CHECKPOINTS])
        runs.write(id_, "judgements.parquet", judgements)
        runs.write(id_, "diagnoses.json", "[]")
        runs.write(id_, "findings.json", "[]")
        runs.write(id_, "outcomes.json", "[]")
        runs.write(id_, "requests.json", "{}")
        runs.log(id_, tags={"ilp.trained": "true"})
    return id_


def test_a_report_judges_the_scores_of_its_run(experiment, run_id, samples):
    found = build_report(experiment, run_id, samples, CHECKPOINTS)
    assert {v.sample_id: v.status for v in found.verdicts} == {"a": "learned", "b": "unlearned"}
    assert found.histories == {"a": ("unlearned", "learned"), "b": ("unlearned", "unlearned")}
    assert found.retention == {"first": {"base": 0.0, "first": 0.5}}
    assert found.unlearned_rate == 0.5
    assert (found.name, found.run_id, found.preset) == ("tiny", run_id, "default")
    assert set(found.versions) == {"python", *PACKAGES}


def test_it_says_how_its_verdicts_came_about(experiment, run_id, samples):
    counts = build_report(experiment, run_id, samples, CHECKPOINTS).verdict_counts
    assert counts["first"].rules == {"greedy": 2}


def test_it_holds_what_was_found_and_what_mitigations_lack(experiment, run_id, samples):
    verdict = build_report(experiment, run_id, samples, CHECKPOINTS).verdicts[1]
    evidence = {"plugin": Evidence(cause="k", strength=0.9, reason="because")}
    diagnosis = Diagnosis(verdict=verdict, cause="k", reason="because", evidence=evidence)
    request = {"targets": ["b"], "wanted": {"b": 2}, "reason": "texts wanted"}
    runs.write(run_id, "diagnoses.json", as_json([diagnosis]))
    runs.write(run_id, "requests.json", json.dumps({"reader": request}))
    found = build_report(experiment, run_id, samples, CHECKPOINTS)
    assert found.diagnoses == (diagnosis,)
    assert found.requests["reader"].wanted == {"b": 2}


def test_it_says_what_training_did_not_leave_behind(experiment, run_id, samples):
    found = build_report(experiment, run_id, samples, CHECKPOINTS)
    assert (found.unavailable, found.repeatable) == (("exposures", "signals"), True)
    runs.write(run_id, "signals.parquet", to_table([], Score))
    runs.log(run_id, tags={"ilp.trained": "elsewhere"})
    found = build_report(experiment, run_id, samples, CHECKPOINTS)
    assert (found.unavailable, found.repeatable) == (("exposures",), False)


def test_its_settings_keep_the_address_of_the_results_to_themselves(experiment, run_id, samples):
    secret = experiment.tracking.model_copy(update={"uri": "https://user:secret@host"})
    changed = experiment.model_copy(update={"tracking": secret})
    settings = build_report(changed, run_id, samples, CHECKPOINTS).settings
    assert "secret" not in settings
    assert "name: tiny" in settings


def test_a_run_that_was_not_diagnosed_has_no_report(experiment, store, samples):
    with runs.start("tiny", "experiment") as id_:
        pass
    with pytest.raises(TrackingError, match=r"no artifact ilp/scores.parquet"):
        build_report(experiment, id_, samples, CHECKPOINTS)
