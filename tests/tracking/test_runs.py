import json
import os
import tempfile

import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from ilp_mlflow.core import config
from ilp_mlflow.core.config import Experiment, TrackingConfig
from ilp_mlflow.core.errors import TrackingError
from ilp_mlflow.core.values import Checkpoint, Sample
from ilp_mlflow.data.samples import samples_to_table
from ilp_mlflow.tracking import connection, runs
from ilp_mlflow.tracking.dataset_inputs import DatasetId


@pytest.fixture
def run_id(store):
    connection.connect(TrackingConfig(), "x")
    with runs.start("parent", "experiment") as run_id:
        yield run_id


def status(run_id):
    return MlflowClient().get_run(run_id).info.status


def test_a_run_ends_as_what_is_in_it_ends(store, monkeypatch):
    monkeypatch.setattr(runs, "killed_runs", [])
    with runs.start("a", "stage") as finished:
        assert status(finished) == "RUNNING"
        assert runs.active_run_id() == finished
    with pytest.raises(ValueError, match="it broke"), runs.start("b", "stage") as failed:
        raise ValueError("it broke")
    with pytest.raises(KeyboardInterrupt), runs.start("c", "stage") as killed:
        raise KeyboardInterrupt
    assert [status(run) for run in (finished, failed, killed)] == ["FINISHED", "FAILED", "KILLED"]
    assert "ValueError: it broke" in runs.read(failed, "error.txt")
    assert not runs.has(killed, "error.txt")
    assert runs.killed_runs == [killed]
    assert runs.active_run_id() is None


def test_a_run_is_tagged_by_its_kind_and_stage(store):
    with runs.start("facts", "stage") as stage:
        pass
    with runs.start("e", "experiment") as experiment:
        pass
    assert runs.tags(stage)["ilp.kind"] == "stage"
    assert runs.tags(stage)["ilp.stage"] == "facts"
    assert runs.tags(experiment)["ilp.kind"] == "experiment"
    assert "ilp.stage" not in runs.tags(experiment)


def test_the_active_run_goes_on_and_is_ended_by_who_started_it(run_id):
    with runs.start("", "diagnosis", run_id=run_id) as inside:
        assert inside == run_id
    assert status(run_id) == "RUNNING"
    assert runs.tags(run_id)["ilp.kind"] == "diagnosis"
    with pytest.raises(ValueError, match="x"), runs.start("", "diagnosis", run_id=run_id):
        raise ValueError("x")
    assert status(run_id) == "RUNNING"
    assert runs.has(run_id, "error.txt")


def test_a_finished_run_is_continued_under_its_name(store):
    with runs.start("first", "experiment") as run_id:
        pass
    with runs.start("second", "experiment", run_id=run_id) as continued:
        assert continued == run_id
        assert status(run_id) == "RUNNING"
    assert status(run_id) == "FINISHED"
    assert runs.run_name(run_id) == "first"


def test_the_first_run_inside_mlflow_run_is_the_project_s(store, monkeypatch):
    project = MlflowClient().create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", project)
    with runs.start("e", "experiment") as first, runs.start("s", "stage", parent=first) as second:
        pass
    assert first == project
    assert runs.run_name(first) == "e"
    assert second != project
    assert "MLFLOW_RUN_ID" not in os.environ


def test_an_unknown_run_is_named(store):
    with pytest.raises(TrackingError, match="none"), runs.start("a", "stage", run_id="none"):
        pass


def test_names_of_runs_are_unique_and_say_the_parent(run_id):
    with runs.start("other", "experiment"):
        pass
    names = []
    for _ in range(3):
        with runs.start("control", "mitigation", parent=run_id) as child:
            names.append(runs.run_name(child))
            assert runs.parent_of(child) == run_id
    assert names == ["control (parent)", "control 2 (parent)", "control 3 (parent)"]
    assert runs.parent_of(run_id) is None


def test_experiments_of_one_name_are_numbered(store):
    names = []
    for _ in range(2):
        with runs.start("e", "experiment") as run_id:
            names.append(runs.run_name(run_id))
    assert names == ["e", "e 2"]


def test_a_child_is_in_the_experiment_of_its_parent(run_id):
    mlflow.set_experiment("another")
    with runs.start("s", "stage", parent=run_id) as child:
        pass
    client = MlflowClient()
    assert client.get_run(child).info.experiment_id == client.get_run(run_id).info.experiment_id


def test_more_parameters_are_logged_than_mlflow_takes_at_a_time(run_id):
    params = {f"p{i}": i for i in range(250)}
    runs.log(run_id, params=params, tags={"t": 1}, metrics={"m": 2})
    assert runs.params(run_id) == {name: str(value) for name, value in params.items()}
    assert runs.tags(run_id)["t"] == "1"
    assert runs.metrics(run_id) == {"m": 2.0}


def test_a_metric_says_its_step_its_model_and_its_data(run_id):
    data = DatasetId("s", "abc")
    model = mlflow.initialize_logged_model(name="m", source_run_id=run_id)
    runs.log(run_id, metrics={"m": 0.5}, step=3, model=model.model_id, data=data)
    (found,) = mlflow.get_logged_model(model.model_id).metrics
    assert (found.key, found.value, found.step) == ("m", 0.5, 3)
    assert (found.dataset_name, found.dataset_digest) == data


def test_only_metrics_that_changed_are_logged_again(run_id):
    runs.log(run_id, metrics={"same": 1.0, "other": 1.0})
    runs.log_changed(run_id, {"same": 1.0, "other": 2.0, "new": 3.0})
    assert runs.metrics(run_id) == {"same": 1.0, "other": 2.0, "new": 3.0}
    history = [len(MlflowClient().get_metric_history(run_id, m)) for m in ("same", "other", "new")]
    assert history == [1, 2, 1]


def test_artifacts_are_read_back_and_a_missing_one_is_named(run_id, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    runs.write(run_id, "a.txt", "text")
    before = sorted(tmp_path.iterdir())
    assert runs.read(run_id, "a.txt") == "text"
    assert sorted(tmp_path.iterdir()) == before  # no copies are left behind
    with pytest.raises(TrackingError, match=r"has no artifact ilp/b.txt"):
        runs.read(run_id, "b.txt")


def test_an_artifact_that_a_child_lacks_is_looked_for_in_its_parent_by_the_user(run_id):
    with runs.start("s", "stage", parent=run_id) as child:
        pass
    with pytest.raises(TrackingError, match=f"it is a part of run {run_id}: give that one"):
        runs.read(child, "a.txt")
    with pytest.raises(TrackingError, match="was the step before it finished"):
        runs.read_table(run_id, "a.parquet")


def test_tables_are_read_back_and_known_to_be_there(run_id):
    table = pa.table({"a": [1, 2], "b": ["x", None]})
    assert not runs.has(run_id, "a.parquet")
    runs.write(run_id, "a.parquet", table)
    assert runs.has(run_id, "a.parquet")
    assert runs.read_table(run_id, "a.parquet") == table


def test_a_table_for_the_ui_replaces_an_earlier_one_and_is_announced_once(run_id):
    for value in (1, 2):
        runs.write_ui_table(run_id, "t.json", pa.table({"a": [value]}))
    runs.write_ui_table(run_id, "u.json", pa.table({"a": [3]}), folder="")
    assert json.loads(runs.read(run_id, "t.json")) == {"columns": ["a"], "data": [[2]]}
    assert json.loads(runs.tags(run_id)["mlflow.loggedArtifacts"]) == [
        {"path": "ilp/t.json", "type": "table"},
        {"path": "u.json", "type": "table"},
    ]


def test_checkpoints_samples_and_the_experiment_are_read_as_they_were_logged(run_id):
    checkpoints = [Checkpoint(name="base", model_uri="owner/name")]
    samples = [Sample(id="1", stage="s", prompt="p", completion="c")]
    logged = Experiment.model_validate(
        {"name": "e", "model": "m", "stages": [{"name": "s", "data": "/a.jsonl"}], "seed": 1}
    )
    runs.write(run_id, "checkpoints.json", json.dumps([c.model_dump() for c in checkpoints]))
    runs.write(run_id, "samples.parquet", samples_to_table(samples))
    runs.write(run_id, "experiment.yaml", config.dump(logged))
    assert runs.read_checkpoints(run_id) == checkpoints
    assert runs.read_samples(run_id) == samples
    assert runs.read_experiment(None, run_id) == logged
    changed = logged.model_copy(update={"seed": 2, "model": "n"})
    assert runs.read_experiment(changed, run_id, "seed") == logged.model_copy(update={"seed": 2})


def test_the_newest_finished_child_with_the_tags_is_found(run_id):
    def child(fails=False, **tags):
        with runs.start("s", "stage", parent=run_id) as child_id:
            runs.log(child_id, tags=tags)
            assert not fails
        return child_id

    child(a=1)
    newest = child(a=1)
    child(a=2)
    with pytest.raises(AssertionError):
        child(fails=True, a=1)
    assert runs.find_finished(run_id, {"a": "1"}) == newest
    assert runs.find_finished(run_id, {"a": "3"}) is None


def test_the_run_of_an_experiment_is_the_newest_that_was_trained_or_the_one_given(store):
    ids = []
    for trained in ("true", "true", "false"):
        with runs.start("e", "experiment") as run_id:
            runs.log(run_id, params={"ilp.name": "e"}, tags={"ilp.trained": trained})
        ids.append(run_id)
    assert runs.find_experiment_run("e", None) == ids[1]
    assert runs.find_experiment_run("e", ids[2]) == ids[2]
    with pytest.raises(TrackingError, match="no trained run of experiment 'f' in sqlite"):
        runs.find_experiment_run("f", None)
    with pytest.raises(TrackingError, match="not found"):
        runs.find_experiment_run("e", "none")


@pytest.mark.parametrize("keep", [False, True])
def test_the_project_s_own_run_is_kept_where_it_is_wanted(store, monkeypatch, keep):
    with runs.start("e", "experiment") as run_id:
        pass
    monkeypatch.setenv("MLFLOW_RUN_ID", "of the project")
    assert runs.find_experiment_run("e", run_id, keep=keep) == run_id
    assert ("MLFLOW_RUN_ID" in os.environ) is keep


def test_a_run_is_not_looked_for_in_a_store_that_is_not_there(store, tmp_path):
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'none.db'}")
    with pytest.raises(TrackingError, match=r"run r: there is no sqlite:.*start in the folder"):
        runs.find_experiment_run("e", "r")
    assert not (tmp_path / "none.db").exists()


def test_trials_of_a_mitigation_count_once_each(run_id):
    def trial(mitigation, tags, metrics):
        with runs.start(mitigation, "mitigation", parent=run_id) as child:
            runs.log(child, tags={"ilp.mitigation": mitigation, **tags}, metrics=metrics)

    trial("replay", {"ilp.trial": "a"}, {"targets": 5, "net_recovery": 0.5})
    trial("replay", {"ilp.trial": "a"}, {"targets": 5, "net_recovery": 0.5})
    trial("replay", {}, {"targets": 7, "net_recovery": -0.25})
    trial("replay", {}, {"targets": 7})
    trial("repair", {}, {"targets": 9, "net_recovery": 1.0})
    assert sorted(runs.past_trials("replay")) == [(5, 0.5), (7, -0.25)]
    assert runs.past_trials("replay")[0].targets == 7
    assert runs.past_trials("none") == []


def test_numbers_that_hardly_repeat_take_their_bytes_and_no_more(tmp_path):
    rng = np.random.default_rng(0)
    lists = rng.normal(size=(200, 100)).astype(np.float32)
    ids = rng.integers(0, 50_000, (200, 100)).astype(np.int32)
    table = pa.table(
        {
            "sample_id": [f"row {n}" for n in range(200)],
            "texts": [["the", "same"]] * 200,
            "logprobs": pa.array(list(lists)),
            "best_logprobs": pa.array(list(lists[::-1])),
            "best_ids": pa.array(list(ids)),
        }
    )
    runs.write_parquet(table, tmp_path / "table.parquet")
    assert pq.read_table(tmp_path / "table.parquet").equals(table)
    assert (tmp_path / "table.parquet").stat().st_size <= 12 * 200 * 100
