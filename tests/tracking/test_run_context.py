import subprocess
import sys

import mlflow

from ilp_mlflow.tracking import runs


def marks(run_id):
    return {
        k.removeprefix("ilp."): v
        for k, v in runs.tags(run_id).items()
        if k in ("ilp.version", "ilp.stage")
    }


def test_runs_of_others_are_marked_inside_ours_and_nowhere_else(store):
    """Needs the package to be installed as it is now: MLflow finds the provider by its entry point."""
    started = []

    def other():
        with mlflow.start_run(nested=True) as run:
            started.append(run.info.run_id)

    with runs.start("e", "experiment") as whole:
        other()
        with runs.start("facts", "stage", parent=whole) as stage:
            other()
        other()
    other()
    version, of_stage = (
        {"version": mlflow.get_run(whole).data.tags["ilp.version"]},
        {"stage": "facts"},
    )
    assert [marks(run) for run in (whole, stage)] == [version, version | of_stage]
    assert [marks(run) for run in started] == [version, version | of_stage, version, {}]


def test_a_run_that_is_continued_is_marked_too(store):
    with mlflow.start_run() as run:
        pass
    with runs.start("facts", "stage", run_id=run.info.run_id):
        pass
    assert marks(run.info.run_id)["stage"] == "facts"


def test_importing_the_provider_imports_nothing_of_mlflow():
    seen = "import ilp_mlflow.tracking.run_context, sys; assert not {'mlflow', 'torch', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", seen], check=True)
