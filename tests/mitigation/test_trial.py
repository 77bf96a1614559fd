"""Trials, their controls and what is logged of them, with training and scoring that take no time."""

import math
from types import SimpleNamespace

import pyarrow as pa
import pytest
from mlflow import MlflowClient

from ilp_mlflow.core import config
from ilp_mlflow.core.errors import ModelError
from ilp_mlflow.core.values import Checkpoint, Diagnosis, Outcome, Score, Verdict, to_rows, to_table
from ilp_mlflow.mitigation import trial
from ilp_mlflow.mitigation.side_effects import Answers, Questions
from ilp_mlflow.mitigation.trial import Baseline, outcome_metrics, run_trial
from ilp_mlflow.plugin import Plan
from ilp_mlflow.scoring.verdicts.timeline import verdict_table
from ilp_mlflow.tracking import runs
from tests.contexts import context, sample
from tests.scoring.verdicts.judged_scores import judged

ROWS = [sample(f"{stage}{n}", stage=stage) for stage in ("first", "second") for n in range(3)]
UNLEARNED = ("first0", "second0", "second1")
GUARD = {"fact 1": True, "fact 2": True, "fact 3": False}


class Bench:
    """Trains nothing: a model's URI is the names of its stages, and it has learned what `learned` says of it."""

    def __init__(self):
        self.fitted = []
        self.learned = {"remedy": {"first0", "second0", "second2", "first1"}}
        self.kept = {row.id for row in ROWS} - set(UNLEARNED)
        self.control_fails = False
        self.spoiled = {}

    def fit_stage(self, experiment, stage, parent, run_id, keep):
        rate = stage.training.get("learning_rate")
        uri = "remedy" if rate == 1 else "control"
        if uri == "control" and self.control_fails:
            raise RuntimeError("out of memory")
        self.fitted.append((uri, stage.name, parent, stage.training["seed"]))
        done = SimpleNamespace(tokens=100, seconds=36.0 if rate == 1 else 18.0)
        return [Checkpoint(name=stage.name, model_uri=uri)], done

    def score_and_judge(self, samples, wrong, uris, options, seed, tokenizer, controls):
        assert wrong == {row.id: [" w"] for row in samples}  # those of the diagnosis
        assert list(uris) == ["base", "after"]
        learned = self.learned.get(uris["after"], self.kept)
        scores = []
        for row in samples:
            gap = 5.0 if row.id in learned else -5.0
            if row.id in self.spoiled.get(uris["after"], ()):
                gap = math.nan
            scores.append(Score(sample_id=row.id, checkpoint="base", tokens=3, gap=-5.0))
            scores.append(Score(sample_id=row.id, checkpoint="after", tokens=3, gap=gap))
        table = to_table(scores, Score)
        names = ("base", "after")
        judgements = judged(table, names)
        verdicts = to_rows(verdict_table(judgements, names), Verdict)
        return SimpleNamespace(scores=table, judgements=judgements, verdicts=verdicts)

    def ask_questions(self, questions, base, model, experiment):
        if model == "remedy":
            return Answers({"first0": True, "second0": False}, {**GUARD, "fact 2": False})
        return Answers({"first0": False, "second0": False}, GUARD)


@pytest.fixture
def bench(monkeypatch):
    bench = Bench()
    for name in ("fit_stage", "score_and_judge", "ask_questions"):
        monkeypatch.setattr(trial, name, getattr(bench, name))
    monkeypatch.setattr(trial.model_registry, "model_id", lambda uri: None)
    return bench


@pytest.fixture
def baseline(store, experiment_file):
    """What is known of a run with three unlearned samples of six."""
    statuses = {row.id: "unlearned" if row.id in UNLEARNED else "learned" for row in ROWS}
    whole = context(ROWS, {i: (status,) * 3 for i, status in statuses.items()})
    diagnoses = []
    for sample_id, cause in zip(UNLEARNED, ("x", "y", None), strict=True):
        verdict = Verdict(sample_id=sample_id, status="unlearned")
        diagnoses.append(Diagnosis(verdict=verdict, cause=cause))
    experiment = config.read(experiment_file)
    with runs.start("e", "experiment") as run_id:
        options = {"sample_id": [row.id for row in ROWS], "wrong": [[" w"]] * len(ROWS)}
        runs.write(run_id, "options.parquet", pa.table(options))
    answers = Answers({}, GUARD)
    return Baseline(experiment, run_id, diagnoses, whole, Questions([], [], []), answers)


def faster(whole, **more):
    """A plan that changes the second stage."""
    first, second = whole.stages
    changed = second.model_copy(update={"training": {"learning_rate": 1}})
    return Plan(targets=("first0", "second1"), stages=(first, changed), **more)


def tried(baseline, name="fast", **more):
    with runs.start(name, "mitigation", parent=baseline.run_id) as run_id:
        return run_trial(name, faster(baseline.context, **more), baseline, run_id)


def test_an_outcome_is_the_plan_set_against_its_control(bench, baseline):
    outcome = tried(baseline, dropped=("first2",))
    assert bench.fitted == [("control", "second", "u", 1), ("remedy", "second", "u", 1)]
    assert (outcome.recovered, outcome.still) == (("first0", "second0"), ("second1",))
    assert (outcome.regressed, outcome.left_out) == ((), ("first2",))
    assert outcome.net_recovery == 0.5
    assert outcome.regressed_by_control == 0
    assert {cause: t.recovered for cause, t in outcome.causes.items()} == {
        "unexplained": 0,
        "x": 1,
        "y": 1,
    }
    assert (outcome.causes["x"].held, outcome.causes["x"].held_by_control) == (1, 0)
    assert (outcome.guard.right, outcome.guard.lost, outcome.guard.lost_by_control) == (2, 1, 0)
    assert (outcome.tokens, outcome.control_tokens, outcome.seconds) == (100, 100, 36.0)
    assert outcome.unlearned_rate == pytest.approx(1 / 5)  # without the one left out
    assert outcome.model_uri == "remedy"
    assert Outcome.model_validate_json(runs.read(outcome.run_id, "outcome.json")) == outcome


def test_what_came_of_it_is_on_its_run_and_the_controls(bench, baseline):
    outcome = tried(baseline)
    of_plan = MlflowClient().get_run(outcome.run_id).data
    of_control = MlflowClient().get_run(outcome.control_run_id).data
    assert of_plan.tags["ilp.mitigation"] == "fast"
    assert of_plan.tags["ilp.trial"] != of_control.tags["ilp.trial"]
    assert of_plan.tags["mlflow.note.content"].startswith(
        "2 of 3 unlearned samples are learned now"
    )
    assert of_plan.params == {"ilp.mitigation": "fast", "ilp.rows": "3", "ilp.start": "first"}
    shares = {"recovered": 2 / 3, "regressed": 1 / 3, "held": 1 / 2, "guard_lost": 1 / 2}
    expected = {**shares, "net_recovery": 0.5, "targets": 2, "tokens": 100, "seconds": 36}
    assert of_plan.metrics == pytest.approx({**expected, "unlearned_rate": 1 / 3})
    assert of_control.metrics == {"unlearned_rate": 0.5, "tokens": 100, "seconds": 18}
    history = MlflowClient().get_metric_history(outcome.run_id, "unlearned_rate")
    assert [(m.step, m.value) for m in history] == [(0, 0.5), (1, pytest.approx(1 / 3))]
    table = runs.read(outcome.run_id, "diagnosis.json")
    assert table.index("first0") < table.index("first2") < table.index("first1")
    assert table.count("regressed") == 1  # first2; one that is still unlearned keeps its cause


def test_nothing_is_trained_twice(bench, baseline):
    first = tried(baseline)
    again = tried(baseline, "fast again")
    assert len(bench.fitted) == 2
    assert again.control_run_id == first.control_run_id
    assert again.run_id != first.run_id
    same = {"mitigation": "", "run_id": ""}
    assert again.model_copy(update=same) == first.model_copy(update=same)


def test_another_mitigation_with_the_same_control_shares_its_run(bench, baseline):
    first = tried(baseline)
    other = tried(baseline, "other", control=tuple(baseline.context.stages))
    assert other.control_run_id == first.control_run_id
    stages = baseline.context.stages
    longer = stages[1].model_copy(update={"training": {"num_train_epochs": 9}})
    third = tried(baseline, "third", control=(stages[0], longer))
    assert third.control_run_id != first.control_run_id


def test_where_the_plan_is_its_own_control_there_is_nothing_to_compare(bench, baseline):
    plan = Plan(targets=UNLEARNED, stages=tuple(baseline.context.stages))
    with runs.start("control", "mitigation", parent=baseline.run_id) as run_id:
        outcome = run_trial("control", plan, baseline, run_id)
    assert [stage for _, stage, _, _ in bench.fitted] == ["first", "second"]
    assert (outcome.control_run_id, outcome.net_recovery, outcome.control_tokens) == (None,) * 3
    assert outcome.tokens == 200
    assert "net_recovery" not in outcome_metrics(outcome, baseline.context)


def test_what_a_control_leaves_out_does_not_regress_under_it(bench, baseline):
    first, second = baseline.context.stages
    without = second.model_copy(update={"samples": second.samples[:2]})
    bench.learned["control"] = bench.kept - {"second2", "first1"}
    outcome = tried(baseline, control=(first, without))
    assert outcome.regressed_by_control == 1  # first1 and not second2


def test_a_control_that_fails_leaves_nothing_trained(bench, baseline):
    bench.control_fails = True
    with pytest.raises(RuntimeError, match="out of memory"):
        tried(baseline)
    assert bench.fitted == []


def test_samples_that_lose_their_score_are_counted_apart_on_the_runs(bench, baseline):
    bench.spoiled = {"remedy": {"first0"}, "control": {"first1"}}
    outcome = tried(baseline)
    assert (outcome.unscored, outcome.unscored_by_control) == (("first0",), ("first1",))
    assert outcome.recovered == ("second0",)
    (reason,) = outcome.unscored_reasons
    assert (reason.samples, reason.example) == (1, "first0")
    of_plan = MlflowClient().get_run(outcome.run_id).data.metrics
    assert (of_plan["unscored"], of_plan["unscored_targets"]) == (1, 1)
    # of the two unlearned ones, and of the five samples, that are scored
    assert of_plan["recovered"] == 1 / 2
    assert of_plan["unlearned_rate"] == pytest.approx(2 / 5)
    assert runs.past_trials("fast") == [(1, outcome.net_recovery)]


def test_a_model_that_scores_nothing_is_no_outcome(bench, baseline):
    bench.spoiled = {"remedy": {row.id for row in ROWS}}
    with pytest.raises(ModelError, match="none of 6 samples can be scored"):
        tried(baseline)
    client = MlflowClient()
    experiments = [client.get_run(baseline.run_id).info.experiment_id]
    kinds = {"mitigation": "FAILED", "control": "FINISHED"}
    for kind, status in kinds.items():
        query = f"tags.`ilp.kind` = '{kind}'"
        assert [run.info.status for run in client.search_runs(experiments, query)] == [status]
