import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import pandas as pd
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from ilp_mlflow import pipeline
from ilp_mlflow.core import config, plugin_loader
from ilp_mlflow.core.errors import StepFailed
from ilp_mlflow.core.interfaces import Context
from ilp_mlflow.core.value import Value
from ilp_mlflow.core.values import Evidence, Plan
from ilp_mlflow.diagnosis.context import read_logs
from ilp_mlflow.tracking import model_registry, runs
from ilp_mlflow.training.preflight import check_experiment
from tests.cli.commands import stage
from tests.conftest import edit_yaml, rows, write_jsonl

ARTIFACTS = {
    "experiment.yaml",
    "samples.parquet",
    "scores.parquet",
    "diagnosis.parquet",
    "diagnosis.json",
    "diagnoses.json",
    "findings.json",
    "checkpoints.json",
    "exposures.parquet",
    "signals.parquet",
    "accounts.parquet",
    "training_logs.json",
    "options.parquet",
    "outcomes.json",
    "requests.json",
    "report.html",
    "report.json",
    "self_check.json",
    "judgements.parquet",
    "tokens.parquet",
    "answer_texts.parquet",
    "first_choices.parquet",
    "weights.json",
}


def run(path, **overrides):
    return pipeline.run(config.read(path, overrides), path)


@pytest.mark.slow
def test_one_run_gives_registered_stages_and_a_verdict_for_every_sample(
    experiment_file, store, tiny_model, capsys
):
    report = run(edit_yaml(experiment_file, mitigations=["control"]))
    # the second stage goes on with the adapter of the first: nothing to tell of that
    assert "its adapter is put on" not in capsys.readouterr().err
    client = MlflowClient()
    parent = client.get_run(report.run_id)
    assert parent.info.status == "FINISHED"
    assert {f.path.split("/")[1] for f in client.list_artifacts(report.run_id, "ilp")} == ARTIFACTS
    assert {
        "unlearned_rate",
        "forgetting/first",
        "forgetting/second",
        "learned/first",
        "recovered/control",
    } <= set(parent.data.metrics)

    children = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{report.run_id}'"
    )
    assert sorted((c.info.run_name, c.info.status) for c in children) == [
        ("control (tiny)", "FINISHED"),
        ("diagnosis (tiny)", "FINISHED"),
        ("first (tiny)", "FINISHED"),
        ("second (tiny)", "FINISHED"),
    ]
    assert [c.name for c in report.checkpoints] == ["base", "first", "second"]
    assert len(report.verdicts) == 16
    scores = runs.read_table(report.run_id, "scores.parquet")
    assert scores.num_rows == 16 * 3
    assert set(report.retention) == {"first", "second"}
    exposures = runs.read_table(report.run_id, "exposures.parquet").to_pylist()
    assert [e["exposures"] for e in exposures] == [2] * 16

    first, second = model_registry.list_stages("tiny")
    assert (first["uri"], first["parent"], first["base"], first["index"]) == (
        "models:/tiny.first/1",
        "models:/tiny/1",
        "models:/tiny/1",
        "1",
    )
    assert (second["parent"], second["base"]) == ("models:/tiny.first/1", "models:/tiny/1")
    assert len(first["data_digest"]) == 64
    *_, folder = model_registry.resolve_parts("models:/tiny.second@latest")
    assert (
        model_registry.resolve_parts("models:/tiny.second@latest")[0]
        == model_registry.resolve_parts("models:/tiny/1")[0]
    )
    assert (
        sum(p.stat().st_size for p in Path(folder).iterdir())
        < (tiny_model / "model.safetensors").stat().st_size
    )
    (outcome,) = report.outcomes
    assert len(outcome.recovered) + len(outcome.still) == len(outcome.targets)


@pytest.mark.long
def test_the_same_seed_gives_the_same_verdicts_and_the_base_is_registered_once(
    experiment_file, store
):
    one, same = run(experiment_file), run(experiment_file)
    assert one.verdicts == same.verdicts
    assert len(MlflowClient().search_model_versions("name = 'tiny'")) == 1
    assert [r["version"] for r in model_registry.list_stages("tiny")] == [1, 1, 2, 2]
    other = run(experiment_file, seed="5")
    assert [v.margin for v in other.verdicts] != [v.margin for v in one.verdicts]


def scores_of(run_id, checkpoint):
    table = runs.read_table(run_id, "scores.parquet").to_pylist()
    return {r["sample_id"]: r["logprob"] for r in table if r["checkpoint"] == checkpoint}


def score_again(uri, data, out, **env):
    """Scores by a fresh process, by sample id."""
    score = [
        "score",
        "--checkpoint",
        f"again={uri}",
        "--data",
        str(data),
        "--out",
        str(out),
        "--json",
    ]
    command = [sys.executable, "-m", "ilp_mlflow", *score]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **env}, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["out"] == str(out)
    return {r["sample_id"]: r["logprob"] for r in pq.read_table(out).to_pylist()}


@pytest.mark.long
@pytest.mark.parametrize(
    "second",
    [{"adapter": "continue"}, {"adapter": "new"}, {"peft": None}],
    ids=["continue", "new", "full"],
)
def test_a_registered_stage_scores_the_same_in_a_fresh_process(
    experiment_file, store, tmp_path, second
):
    import yaml

    stages = yaml.safe_load(experiment_file.read_text())["stages"]
    stages[1] |= second
    report = run(edit_yaml(experiment_file, stages=stages))
    found = score_again(
        "models:/tiny.second@latest", tmp_path / "second.jsonl", tmp_path / "again.parquet"
    )
    expected = scores_of(report.run_id, "second")
    assert found == pytest.approx({i: expected[i] for i in found}, abs=1e-4)


@pytest.mark.slow
def test_the_same_through_an_http_server(experiment_file, server, tmp_path):
    report = run(edit_yaml(experiment_file, tracking={"uri": server}))
    found = score_again(
        "models:/tiny.first/1",
        tmp_path / "first.jsonl",
        tmp_path / "again.parquet",
        MLFLOW_TRACKING_URI=server,
    )
    expected = scores_of(report.run_id, "first")
    assert found == pytest.approx({i: expected[i] for i in found}, abs=1e-4)


@pytest.mark.slow
def test_intermediate_checkpoints_are_scored_in_their_place(experiment_file, store):
    import yaml

    stages = yaml.safe_load(experiment_file.read_text())["stages"]
    stages[0]["score_every"] = 2
    report = run(edit_yaml(experiment_file, stages=stages))
    assert [c.name for c in report.checkpoints] == ["base", "first@2", "first", "second"]
    # the further a stage has come, the more probable are the rows it trains
    logprobs = [scores_of(report.run_id, name) for name in ("base", "first@2", "first")]
    trained = [row["id"] for row in rows(prefix="first ")]
    means = [sum(by_id[id_] for id_ in trained) / len(trained) for by_id in logprobs]
    assert means[1] > means[0] + 0.05
    assert means[2] > means[1] + 0.05
    step = next(c for c in report.checkpoints if c.name == "first@2")
    assert (
        step.step,
        model_registry.adapter_base(model_registry.resolve_parts(step.model_uri)[-1]),
    ) == (2, "models:/tiny/1")


@pytest.mark.slow
def test_a_conversational_stage_with_a_template_of_its_own(experiment_file, store, tmp_path):
    chats = [
        {
            "id": r["id"],
            "messages": [
                {"role": "user", "content": r["prompt"]},
                {"role": "assistant", "content": r["completion"].strip()},
            ],
        }
        for r in rows()
    ]
    write_jsonl(tmp_path / "second.jsonl", chats)
    (tmp_path / "t.jinja").write_text(
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    report = run(edit_yaml(experiment_file, tokenizer={"chat_template": "t.jinja"}))
    assert not [v for v in report.verdicts if v.status == "unscored"]
    found = score_again(
        "models:/tiny.second/1", tmp_path / "second.jsonl", tmp_path / "again.parquet"
    )
    expected = scores_of(report.run_id, "second")
    assert found == pytest.approx(
        {i: expected[i] for i in found}, abs=1e-4
    )  # the template travels with the stage


@pytest.mark.slow
def test_a_verb_runs_again_from_what_was_logged(experiment_file, store, tmp_path):
    experiment = config.read(experiment_file)
    run_id = pipeline.train(experiment, experiment_file)
    for name in ("first", "second"):
        (tmp_path / f"{name}.jsonl").unlink()  # the run holds its samples
    first = pipeline.diagnose(experiment, run_id)
    again = config.read(edit_yaml(experiment_file, scoring={"preset": "paper"}))
    assert runs.find_experiment_run("tiny", None) == run_id
    pipeline.diagnose(runs.read_experiment(again, run_id, "scoring"), run_id)
    # a report goes by the rule of the diagnosis, whatever the file says now
    report = pipeline.make_report(runs.read_experiment(experiment, run_id), run_id)
    assert report.preset == "paper"
    assert {d.verdict.sample_id for d in report.diagnoses} == {
        v.sample_id for v in report.verdicts if v.status == "unlearned"
    }
    pipeline.diagnose(experiment, run_id)
    assert pipeline.make_report(experiment, run_id).diagnoses == tuple(first)
    shown = json.loads(runs.read(run_id, "diagnosis.json"))
    assert len(shown["data"]) == 16  # replaced, not added to
    assert shown["columns"][:2] == ["sample_id", "cause"]


@pytest.mark.filterwarnings(
    "ignore::UserWarning:mlflow"
)  # of two kinds of local source, both its own
def test_rows_are_looked_for_in_the_experiments_own_store(
    experiment_file, store, empty_store, tmp_path
):
    shutil.copy(empty_store, tmp_path / "own.db")
    own = f"sqlite:///{tmp_path / 'own.db'}"
    mlflow.set_tracking_uri(own)
    with mlflow.start_run() as logged:
        mlflow.log_artifact(tmp_path / "second.jsonl")
        mlflow.log_input(
            mlflow.data.from_pandas(pd.DataFrame(rows()), source=str(tmp_path / "first.jsonl"))
        )
    mlflow.set_tracking_uri(store)
    found = config.read(
        edit_yaml(experiment_file, tracking={"uri": own}),
        data={"first": f"runs:/{logged.info.run_id}"},
    )
    found = found.model_copy(
        update={"held_out": config.DataConfig(path=f"runs:/{logged.info.run_id}/second.jsonl")}
    )
    assert [len(stage.samples) for stage in check_experiment(found)] == [8, 8]


def test_a_stage_that_fails_leaves_no_run_open_and_nothing_registered(
    experiment_file, store, monkeypatch
):
    from ilp_mlflow.training.scheduled_trainer import ScheduledTrainer

    original = ScheduledTrainer.compute_loss

    def explode(self, model, inputs, *args, **kwargs):
        if self.state.global_step == 2:
            raise RuntimeError("out of luck")
        return original(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(ScheduledTrainer, "compute_loss", explode)
    with pytest.raises(RuntimeError, match="out of luck"):
        run(experiment_file)
    client = MlflowClient()
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert [r.info.status for r in runs] == ["FAILED", "FAILED"]
    assert [v.name for v in client.search_model_versions()] == ["tiny"]  # the base


def test_an_interrupt_leaves_the_run_killed(experiment_file, store, monkeypatch):
    monkeypatch.setattr(
        pipeline, "train_and_register", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        run(experiment_file)
    client = MlflowClient()
    assert {
        r.info.status
        for r in client.search_runs([e.experiment_id for e in client.search_experiments()])
    } == {"KILLED"}


class Blame(Value):
    """A diagnostic that blames every sample, or one it was not asked about."""

    stranger: bool = False

    def examine(self, unlearned, context: Context):
        assert all(context.verdicts[s.id].status == "unlearned" for s in unlearned)
        evidence = {
            s.id: Evidence(cause="blame", strength=0.9, reason="why not") for s in unlearned
        }
        return (
            {**evidence, "nobody": Evidence(cause="blame", strength=1, reason="")}
            if self.stranger
            else evidence
        )


class Explode(Value):
    """A mitigation that raises."""

    def plan(self, diagnoses, context):
        raise ValueError("boom")


class Lost(Value):
    """A mitigation for a sample nobody knows."""

    def plan(self, diagnoses, context):
        return Plan(targets=("nobody",), stages=tuple(context.stages))


def plug(monkeypatch, **classes):
    """Install plugin objects under the given names beside those that are really there."""
    original = plugin_loader.configure

    def configured(kind, wanted):
        ours = {
            n: c(**(wanted or {}).get(n, {}))
            for n, c in classes.items()
            if wanted is None or n in wanted
        }
        ours = {n: p for n, p in ours.items() if hasattr(p, plugin_loader.METHODS[kind])}
        rest = None if wanted is None else {n: o for n, o in wanted.items() if n not in classes}
        return {**original(kind, rest), **ours}

    monkeypatch.setattr(plugin_loader, "configure", configured)


@pytest.mark.slow
def test_diagnostics_name_causes_and_a_bad_one_is_left_out(
    experiment_file, store, monkeypatch, capsys
):
    plug(monkeypatch, blame=Blame)
    report = run(edit_yaml(experiment_file, diagnostics=["blame"]))
    assert report.diagnoses
    # that its training got nowhere is said of some without any diagnostic
    assert {d.cause for d in report.diagnoses} - {"failed_optimization"} == {"blame"}
    metrics = MlflowClient().get_run(report.run_id).data.metrics
    shares = [v for name, v in metrics.items() if name.startswith("cause/")]
    assert metrics["unlearned_rate"] == pytest.approx(sum(shares))
    experiment = config.read(edit_yaml(experiment_file, diagnostics={"blame": {"stranger": True}}))
    causes = {d.cause for d in pipeline.diagnose(experiment, report.run_id)}
    assert causes - {"failed_optimization"} == {None}
    assert "diagnostic 'blame' failed and is left out" in capsys.readouterr().err


class Longer(Value):
    """A mitigation that trains all weights for longer."""

    epochs: int = 25

    def plan(self, diagnoses, context):
        changes = [
            {"peft": None, "training": {**s.training, "num_train_epochs": self.epochs}}
            for s in context.stages
        ]
        stages = tuple(s.model_copy(update=c) for s, c in zip(context.stages, changes, strict=True))
        return Plan(targets=tuple(d.verdict.sample_id for d in diagnoses), stages=stages)


@pytest.mark.slow
def test_a_mitigation_is_set_against_the_control(experiment_file, store, monkeypatch):
    plug(monkeypatch, longer=Longer)
    report = run(edit_yaml(experiment_file, mitigations=["control", "longer"]))
    control, longer = report.outcomes
    assert (control.mitigation, control.net_recovery, control.control_run_id) == (
        "control",
        None,
        None,
    )
    n = len(longer.targets)
    assert longer.targets == control.targets
    assert len(longer.recovered) > len(control.recovered)
    assert longer.net_recovery == pytest.approx(
        (len(longer.recovered) - len(control.recovered)) / n
    )
    low, high = longer.net_interval
    assert low <= longer.net_recovery <= high
    child = MlflowClient().get_run(longer.run_id).data.metrics
    assert child["net_recovery"] == pytest.approx(longer.net_recovery)
    assert longer.tokens > 5 * control.tokens
    assert {t.by_control for t in longer.causes.values()} == {
        t.recovered for t in control.causes.values()
    }  # the same seed
    assert sorted(longer.recovered + longer.still) == sorted(
        d.verdict.sample_id for d in report.diagnoses
    )


@pytest.mark.slow
def test_a_mitigation_that_raises_fails_alone(experiment_file, store, monkeypatch):
    plug(monkeypatch, explode=Explode, lost=Lost)
    with pytest.raises(StepFailed, match=r"explode.*boom.*'nobody', which is no sample"):
        run(edit_yaml(experiment_file, mitigations=["explode", "lost", "control"]))
    client = MlflowClient()
    tree = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert {r.info.run_name: r.info.status for r in tree} == {
        "tiny": "FINISHED",
        "first (tiny)": "FINISHED",
        "second (tiny)": "FINISHED",
        "diagnosis (tiny)": "FINISHED",
        "explode (tiny)": "FAILED",
        "lost (tiny)": "FAILED",
        "control (tiny)": "FINISHED",
    }
    report = pipeline.make_report(
        config.read(experiment_file), runs.find_experiment_run("tiny", None)
    )
    assert [o.mitigation for o in report.outcomes] == ["control"]


def test_scores_are_kept_by_content_and_never_stale(store, tiny_model, tmp_path, monkeypatch):
    import shutil

    import torch

    from ilp_mlflow.core.config import DataConfig, ScoringConfig
    from ilp_mlflow.data.samples import load_samples
    from ilp_mlflow.scoring import scorer
    from ilp_mlflow.scoring.checkpoints import choose_wrong_options, score_checkpoints
    from ilp_mlflow.scoring.models import loading

    samples = load_samples("s", DataConfig(path=str(write_jsonl(tmp_path / "rows.jsonl", rows()))))
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    calls = []
    original = scorer.score_tokens
    monkeypatch.setattr(
        scorer,
        "score_tokens",
        lambda plan, loaded, name, *a: calls.append(name) or original(plan, loaded, name, *a),
    )

    def score(name="base", samples=samples, options=None, **kwargs):
        locations, options = {name: str(folder)}, options or ScoringConfig()
        wrong = choose_wrong_options(samples, locations, options, 0)
        return score_checkpoints(samples, wrong, locations, options, 0, **kwargs).to_pylist()

    first = score()
    assert [{**r, "checkpoint": "other"} for r in first] == score(
        "other"
    )  # the name is no part of the content
    assert calls == ["base"]
    score(cached=False)
    score(samples=samples[:-1])
    score(options=ScoringConfig(dtype="bfloat16"))
    assert len(calls) == 4
    changed = loading.load_model([str(folder)])
    with torch.no_grad():
        changed.model.model.norm.weight.mul_(2)
    loading.save_model(changed, folder, "unused", True)  # other weights under the same path
    assert score() != first
    assert len(calls) == 5


@pytest.mark.slow
def test_a_stage_that_stopped_in_its_warmup_is_told_also_when_it_is_not_trained_again(
    experiment_file, store
):
    training = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-4,
        "warmup_steps": 100,
        "logging_steps": 1,
        "bf16": False,
    }
    path = stage(experiment_file, 1, training=training)
    report = run(path)
    again = pipeline.run(config.read(path, {}), path, report.run_id)
    for found in (report, again):
        told = [f for f in found.findings if f.kind == "warmup_too_long"]
        assert [finding.subject.name for finding in told] == ["second"]
    first, second = read_logs(report.run_id)
    assert (first.stage, second.stage) == ("first", "second")
    assert [entry.step for entry in second.entries] == [1, 2, 3, 4]
    assert second.settings["warmup_steps"] == 100
    assert second.settings["lora_alpha"] == 8
