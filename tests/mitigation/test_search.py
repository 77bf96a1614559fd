"""Mitigations composed, taken up again, registered, on a tiny experiment."""

import json
from types import SimpleNamespace
from typing import ClassVar

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from ilp_mlflow import cli, pipeline
from ilp_mlflow.core import config
from ilp_mlflow.core.errors import StepFailed
from ilp_mlflow.core.values import Outcome, Unscored
from ilp_mlflow.mitigation import search
from ilp_mlflow.mitigation.outcome import Before
from ilp_mlflow.mitigation.search import SearchOptions
from ilp_mlflow.plugin import Plan, Request, Value
from ilp_mlflow.tracking import model_registry, runs
from tests.conftest import edit_yaml, rows, write_jsonl
from tests.test_pipeline import Explode, Longer, plug


class Idle(Value):
    """A mitigation that changes next to nothing."""

    def plan(self, diagnoses, context):
        stages = [
            s.model_copy(update={"training": {**s.training, "learning_rate": 1e-9}})
            for s in context.stages
        ]
        return Plan(targets=tuple(d.verdict.sample_id for d in diagnoses), stages=tuple(stages))


class Nothing(Value):
    """A mitigation for a cause that no sample has."""

    def plan(self, diagnoses, context):
        return None


class Lacking(Value):
    """A mitigation that has no data."""

    def plan(self, diagnoses, context):
        return Request(targets=(), wanted={"rows": 5}, reason="rows wanted")


class Eager(Longer):
    """Hopes for more than it does."""

    prior: ClassVar[float] = 0.9
    epochs: int = 2


@pytest.fixture
def trained(experiment_file, store, tmp_path, monkeypatch):
    """A diagnosed run of rows with paraphrases and held-out rows: file, experiment, run id."""
    plug(monkeypatch, longer=Longer, idle=Idle, lacking=Lacking, nothing=Nothing, explode=Explode)
    for name in ("first", "second"):
        worded = [{**r, "paraphrases": [r["prompt"]]} for r in rows(prefix=f"{name} ")]
        write_jsonl(tmp_path / f"{name}.jsonl", worded)
    write_jsonl(tmp_path / "held.jsonl", rows(prefix="held "))
    edit_yaml(
        experiment_file, held_out="held.jsonl", mitigations=["idle", "lacking", "longer", "nothing"]
    )
    experiment = config.read(experiment_file)
    run_id = pipeline.train(experiment, experiment_file)
    pipeline.diagnose(experiment, run_id)
    return experiment_file, experiment, run_id


def children(run_id, kind):
    client = MlflowClient()
    query = f"tags.`mlflow.parentRunId` = '{run_id}' and tags.`ilp.kind` = '{kind}'"
    return client.search_runs([client.get_run(run_id).info.experiment_id], query)


@pytest.mark.slow
def test_one_by_one_in_two_grades_and_the_best_is_registered(trained, monkeypatch):
    file, experiment, run_id = trained
    longer, idle = pipeline.mitigate(experiment, run_id, file)
    for tally in longer.causes.values():
        assert tally.paraphrased == tally.unlearned
        # the paraphrases are the rows themselves; learned asks for more than saying it
        assert tally.held >= tally.recovered
    assert any(tally.recovered for tally in longer.causes.values())
    assert idle.recovered == ()
    assert longer.tokens > 10 * longer.control_tokens
    data = MlflowClient().get_run(longer.run_id).data
    assert data.params["ilp.with.epochs"] == "25"
    assert data.metrics["recovered"] == len(longer.recovered) / (
        len(longer.recovered) + len(longer.still)
    )
    report = pipeline.make_report(experiment, run_id)
    assert list(report.requests) == ["lacking", "nothing"]
    assert report.requests["nothing"].targets == ()
    assert longer.unlearned_rate < report.unlearned_rate
    uri = MlflowClient().get_run(run_id).data.tags["ilp.mitigated"]
    version = MlflowClient().get_model_version_by_alias("tiny.second", "mitigated")
    assert uri == f"models:/tiny.second/{version.version}"
    assert version.tags["ilp.mitigation"] == "longer"
    assert model_registry.resolve_parts(
        "models:/tiny.second@mitigated"
    ) == model_registry.resolve_parts(longer.model_uri)

    # again: nothing is trained twice, and what is tried alone is added to the rest

    from ilp_mlflow.training import stage

    monkeypatch.setattr(stage, "train_stage", None)
    (again,) = pipeline.mitigate(experiment, run_id, file, SearchOptions(only=("longer",)))[1:]
    assert again.recovered == longer.recovered
    assert (again.tokens, again.control_run_id) == (longer.tokens, longer.control_run_id)
    assert [o.mitigation for o in pipeline.make_report(experiment, run_id).outcomes] == [
        "idle",
        "longer",
    ]
    assert list(runs.read_experiment(None, run_id).mitigations) == list(experiment.mitigations)
    pipeline.mitigate(
        experiment.model_copy(update={"mitigations": {}}),
        run_id,
        file,
        SearchOptions(only=("nothing",)),
    )
    assert list(runs.read_experiment(None, run_id).mitigations) == list(
        experiment.mitigations
    )  # earlier ones stay
    assert len(children(run_id, "control")) == 1
    assert idle.guard is None  # nothing was right before, so nothing can be lost
    assert runs.past_trials("longer") == [
        (len(longer.targets), pytest.approx(longer.net_recovery))
    ]  # once


def test_of_composed_mitigations_the_best_leaves_nothing_unscored():
    def outcome(share, *counts):
        reasons = [Unscored(samples=n, reason="r", example="a") for n in counts]
        return Outcome(
            mitigation="m",
            run_id="r",
            targets=(),
            recovered=(),
            still=(),
            regressed=(),
            unlearned_rate=share,
            unscored_reasons=tuple(reasons),
        )

    spoiled, nothing, whole = outcome(0.0, 3), outcome(None, 5), outcome(0.4)
    assert min((spoiled, nothing, whole), key=search._unlearned_order) == whole
    assert search._reaches(whole, 0.4)
    assert not search._reaches(whole, 0.3)
    assert not search._reaches(spoiled, 1)
    assert not search._reaches(outcome(None), 0.9)


@pytest.mark.parametrize(("third", "is_done"), [("learned", True), ("unscored", False)])
def test_with_a_sample_unscored_the_target_is_not_reached_already(third, is_done):
    before = Before({"a": "learned", "b": "unlearned", "c": third}, {"b": "x"})
    obstacle = search._obstacle(
        [None], SimpleNamespace(before=before), SearchOptions("auto", max_unlearned=0.5), 0.0
    )
    assert ("unlearned already" in obstacle) == is_done


@pytest.mark.long
def test_composed_until_a_target_is_reached(trained, monkeypatch):
    file, experiment, run_id = trained
    plug(monkeypatch, longer=Longer, idle=Idle, lacking=Lacking, eager=Eager)
    experiment = experiment.model_copy(
        update={"mitigations": {"eager": {}, "idle": {}, "lacking": {}, "longer": {}}}
    )
    (alone,) = pipeline.mitigate(experiment, run_id, file, SearchOptions("auto"))
    assert alone.combines == ("eager",)  # the cheapest, of which most is hoped
    first, *others = pipeline.mitigate(
        experiment, run_id, file, SearchOptions("auto", max_unlearned=alone.unlearned_rate / 2)
    )
    assert [o.mitigation for o in (first, *others)] == [
        f"auto {n + 1}" for n in range(1 + len(others))
    ]
    assert others[-1].combines == ("longer",)
    assert others[-1].unlearned_rate <= alone.unlearned_rate / 2
    begun = len(children(run_id, "mitigation"))
    pipeline.mitigate(experiment, run_id, file, SearchOptions("auto", max_unlearned=0, budget=0))
    pipeline.mitigate(
        experiment, run_id, file, SearchOptions("auto", max_unlearned=1)
    )  # it is there already
    assert len(children(run_id, "mitigation")) == begun
    assert len(pipeline.make_report(experiment, run_id).outcomes) == 1 + len(
        others
    )  # what was found earlier stays

    # a plan that fails is left out
    plug(monkeypatch, longer=Longer, explode=Explode)
    experiment = experiment.model_copy(update={"mitigations": {"explode": {}, "longer": {}}})
    with pytest.raises(StepFailed, match="'explode' failed: ValueError: boom"):
        pipeline.mitigate(experiment, run_id, file, SearchOptions("auto"))
    (outcome,) = pipeline.make_report(experiment, run_id).outcomes
    assert outcome.combines == ("longer",)

    # the command line gates on what is left
    def ilp(*arguments):
        return CliRunner().invoke(cli.main, ["mitigate", str(file), "--run-id", run_id, *arguments])

    edit_yaml(file, mitigations=["longer"])
    missed = ilp("--plan", "auto", "--max-unlearned", "0", "--json")
    assert missed.exit_code == 1
    assert "more than --max-unlearned 0" in missed.stderr
    assert json.loads(missed.stdout)["outcomes"][0]["combines"] == ["longer"]
    assert ilp("--jobs", "2").exit_code == 2
    unknown = ilp("--only", "lngr")
    assert unknown.exit_code == 2
    assert "mitigation 'lngr' is not installed" in unknown.stderr
