"""The MLflow project as users start it: `mlflow run`, and stages as linked child project runs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from ilp_mlflow import config, pipeline
from tests.conftest import edit_yaml

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture
def project(store, monkeypatch):
    """The current folder as a project whose entry points find this environment's `ilp`."""
    for name in ("MLproject", "conda.yaml"):
        shutil.copy(ROOT / name, name)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return store


def tree(run_id):
    """Names, kinds and statuses of a run and its children, and the artifacts and metrics of the run itself."""
    client = MlflowClient()
    parent = client.get_run(run_id)
    found = client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
    children = sorted((c.info.run_name, c.data.tags["ilp.kind"], c.info.status) for c in found)
    artifacts = sorted(f.path for f in client.list_artifacts(run_id, "ilp"))
    return parent.info.run_name, parent.info.status, children, artifacts, sorted(parent.data.metrics)


def test_stages_as_project_runs_give_the_same_tree_and_verdicts(experiment_file, project):
    inline = pipeline.run(config.read(experiment_file), experiment_file)
    launched = pipeline.run(config.read(edit_yaml(experiment_file, launch="project")), experiment_file)
    assert tree(launched.run_id) == tree(inline.run_id)
    assert launched.verdicts == inline.verdicts


def test_a_launched_run_prints_one_document(experiment_file, project):
    command = [sys.executable, "-m", "ilp_mlflow", "run", str(edit_yaml(experiment_file, launch="project")), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["verdicts"]) == 16


def mlflow_run(*arguments):
    command = [sys.executable, "-m", "mlflow", "run", ".", "--env-manager", "local", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_mlflow_run_runs_the_whole_experiment_in_its_own_run(experiment_file, project, tmp_path):
    done = mlflow_run("--experiment-name", "mine", "-P", f"experiment={experiment_file}", "-P", "seed=3")
    assert done.returncode == 0, done.stderr
    client = MlflowClient()
    (parent,) = client.search_runs([client.get_experiment_by_name("mine").experiment_id], "tags.`ilp.kind` = 'experiment'")
    name, status, children, artifacts, _ = tree(parent.info.run_id)
    assert (name, status) == ("tiny", "FINISHED")
    assert [c[0] for c in children] == ["first", "second"]
    assert "ilp/report.html" in artifacts
    assert parent.data.params["ilp.seed"] == "3"

    data = tmp_path / "first.jsonl"
    done = mlflow_run(
        "--experiment-name", "mine", "-e", "stage", "-P", f"experiment={experiment_file}", "-P", "stage=first", "-P", f"data={data}"
    )
    assert done.returncode == 0, done.stderr
    assert client.get_model_version("tiny.first", "2").tags["ilp.parent"] == "models:/tiny/1"
    done = mlflow_run("-e", "diagnose", "-P", f"experiment={experiment_file}", "-P", f"run_id={parent.info.run_id}")
    assert done.returncode == 0, done.stderr


def test_a_bad_parameter_ends_the_project_run_as_failed(experiment_file, project):
    done = mlflow_run("-P", f"experiment={experiment_file}", "-P", "seed=many")
    assert done.returncode != 0
    assert "parameter seed" in done.stderr
    client = MlflowClient()
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert [r.info.status for r in runs] == ["FAILED"]
