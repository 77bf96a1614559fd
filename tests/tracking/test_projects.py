"""The MLflow project as users start it: `mlflow run`, and stages as linked child project runs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from ilp_mlflow import pipeline
from ilp_mlflow.core import config
from tests.conftest import edit_yaml

ROOT = Path(__file__).parents[2]
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
    found = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'"
    )
    behind = f" ({parent.info.run_name})"
    assert all(c.info.run_name.endswith(behind) for c in found)
    children = sorted(
        (c.info.run_name.removesuffix(behind), c.data.tags["ilp.kind"], c.info.status)
        for c in found
    )
    artifacts = sorted(f.path for f in client.list_artifacts(run_id, "ilp"))
    return (
        parent.data.params["ilp.name"],
        parent.info.status,
        children,
        artifacts,
        sorted(parent.data.metrics),
    )


@pytest.mark.long
def test_stages_as_project_runs_give_the_same_tree_and_verdicts(experiment_file, project):
    inline = pipeline.run(config.read(experiment_file), experiment_file)
    launched = pipeline.run(
        config.read(edit_yaml(experiment_file, launch="project")), experiment_file
    )
    assert tree(launched.run_id) == tree(inline.run_id)
    assert launched.verdicts == inline.verdicts


@pytest.mark.long
def test_a_launched_run_prints_one_document(experiment_file, project):
    command = [
        sys.executable,
        "-m",
        "ilp_mlflow",
        "run",
        str(edit_yaml(experiment_file, launch="project")),
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["verdicts"]) == 16


def mlflow_run(*arguments):
    command = [sys.executable, "-m", "mlflow", "run", ".", "--env-manager", "local", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_mlflow_run_runs_the_whole_experiment_in_its_own_run(experiment_file, project, tmp_path):
    done = mlflow_run(
        "--experiment-name", "mine", "-P", f"experiment={experiment_file}", "-P", "seed=3"
    )
    assert done.returncode == 0, done.stderr
    client = MlflowClient()
    (parent,) = client.search_runs(
        [client.get_experiment_by_name("mine").experiment_id], "tags.`ilp.kind` = 'experiment'"
    )
    name, status, children, artifacts, _ = tree(parent.info.run_id)
    assert (name, status) == ("tiny", "FINISHED")
    assert [c[0] for c in children] == ["diagnosis", "first", "second"]
    assert "ilp/report.html" in artifacts
    assert parent.data.params["ilp.seed"] == "3"

    data = tmp_path / "first.jsonl"
    done = mlflow_run(
        "--experiment-name",
        "mine",
        "-e",
        "stage",
        "-P",
        f"experiment={experiment_file}",
        "-P",
        "stage=first",
        "-P",
        f"data={data}",
    )
    assert done.returncode == 0, done.stderr
    assert client.get_model_version("tiny.first", "2").tags["ilp.parent"] == "models:/tiny/1"
    done = mlflow_run(
        "-e",
        "diagnose",
        "-P",
        f"experiment={experiment_file}",
        "-P",
        f"run_id={parent.info.run_id}",
    )
    assert done.returncode == 0, done.stderr


def test_a_bad_parameter_ends_the_project_run_as_failed(experiment_file, project):
    done = mlflow_run("-P", f"experiment={experiment_file}", "-P", "seed=many")
    assert done.returncode != 0
    assert "parameter seed" in done.stderr
    client = MlflowClient()
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert [r.info.status for r in runs] == ["FAILED"]


@pytest.mark.long
def test_mitigations_side_by_side_give_the_same_outcomes_in_children_of_the_run(
    experiment_file, project
):
    edit_yaml(
        experiment_file, mitigations={"control": {}, "upweight_rare": {}, "replay": {"share": 0.4}}
    )
    experiment = config.read(experiment_file)
    inline = pipeline.run(experiment, experiment_file)
    command = [
        sys.executable,
        "-m",
        "ilp_mlflow",
        "mitigate",
        str(experiment_file),
        "--launch",
        "project",
        "--jobs",
        "2",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    same = ("mitigation", "recovered", "still", "regressed", "net_recovery", "tokens")
    assert [{k: o[k] for k in same} for o in document["outcomes"]] == [
        {k: o[k] for k in same} for o in (o.model_dump(mode="json") for o in inline.outcomes)
    ]
    client = MlflowClient()
    for outcome in document["outcomes"]:
        run = client.get_run(outcome["run_id"])
        assert run.data.tags["mlflow.parentRunId"] == inline.run_id
        assert run.info.status == "FINISHED"
    assert {"control", "control 2"} <= {
        c[0] for c in tree(inline.run_id)[2]
    }  # inline, and in a project run


@pytest.mark.long
def test_a_mitigation_that_fails_in_its_project_run_fails_alone(experiment_file, project, tmp_path):
    pool = tmp_path / "none.jsonl"
    edit_yaml(
        experiment_file,
        mitigations={"knowledge_augmentation": {"source": {"path": str(pool)}}, "control": {}},
    )
    run_id = pipeline.train(config.read(experiment_file), experiment_file)
    pipeline.diagnose(config.read(experiment_file), run_id)
    force_cause(run_id, "missing_knowledge")
    command = [
        sys.executable,
        "-m",
        "ilp_mlflow",
        "mitigate",
        str(experiment_file),
        "--launch",
        "project",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "mitigation 'knowledge_augmentation' failed" in done.stderr
    assert [o["mitigation"] for o in json.loads(done.stdout)["outcomes"]] == ["control"]


def force_cause(run_id, cause):
    """Rewrite a run's diagnoses so that all unlearned samples have this cause."""
    from ilp_mlflow.tracking import runs

    found = json.loads(runs.read(run_id, "diagnoses.json"))
    evidence = {cause: {"cause": cause, "strength": 1, "reason": "r", "details": {}}}
    runs.write(
        run_id,
        "diagnoses.json",
        json.dumps([d | {"cause": cause, "strength": 1, "evidence": evidence} for d in found]),
    )
