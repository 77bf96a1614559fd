"""What people see of an experiment in the MLflow UI: a real server, a real browser, nothing set up by hand.

ILP_PICTURES=FOLDER keeps pictures of the pages, made of the smoke experiment; those in docs/images are from
`ILP_PICTURES=FOLDER pytest tests/test_ui.py -k "sqlite and shows"`.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from urllib.parse import quote

import mlflow
import pytest
from mlflow import MlflowClient

from ilp_mlflow import pipeline
from ilp_mlflow.core import config
from ilp_mlflow.lab import data_files
from ilp_mlflow.tracking import runs
from tests.browser import browsing, shows
from tests.conftest import edit_yaml, serving, write_experiment
from tests.test_pipeline import Longer, plug

ROOT = Path(__file__).parents[1]
PICTURES = os.environ.get("ILP_PICTURES")
pytestmark = pytest.mark.slow


@contextlib.contextmanager
def postgresql():
    """URI of a PostgreSQL store of its own; the test is skipped where there is no PostgreSQL."""
    pytest.importorskip("psycopg")
    initdb = shutil.which("initdb") or next(
        map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), None
    )
    if not initdb:
        pytest.skip("needs PostgreSQL")
    user = {"user": "postgres"} if os.geteuid() == 0 else {}  # it refuses to run as root
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if user:
            shutil.chown(folder, "postgres")
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **user}
        subprocess.run(
            [initdb, "-D", f"{folder}/data", "-U", "ilp", "--auth=trust", "--no-sync"],
            check=True,
            **quiet,
        )
        options = ["-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"]
        process = subprocess.Popen(
            [str(Path(initdb).with_name("postgres")), "-D", f"{folder}/data", *options], **quiet
        )
        try:
            while not Path(folder, ".s.PGSQL.5432").exists():
                assert process.poll() is None
                time.sleep(0.1)
            yield f"postgresql://ilp@/postgres?host={folder}"
        finally:
            process.send_signal(signal.SIGINT)  # not to wait for those who are connected
            process.wait(30)


@pytest.fixture
def browser():
    with browsing() as page:
        yield page


@pytest.fixture(
    scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.long)]
)
def two(request, empty_store, tiny_model, tmp_path_factory):
    """Two reports in one MLflow experiment of a server, which differ in the learning rate of a stage; the first has trials."""
    home = tmp_path_factory.mktemp("home")
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        store = f"sqlite:///{shutil.copy(empty_store, home / 'mlflow.db')}"
        address = stack.enter_context(
            serving(store if request.param == "sqlite" else stack.enter_context(postgresql()), home)
        )
        patch.setenv("MLFLOW_TRACKING_URI", address)
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        patch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)
        mlflow.set_tracking_uri(address)
        file = write_experiment(home, tiny_model)
        if PICTURES:
            shutil.copy(ROOT / "experiments/smoke.yaml", file)
            edit_yaml(file, mitigations=["replay", "upweight_rare"])
        else:
            plug(patch, longer=Longer)
            edit_yaml(file, mitigations=["longer"])
        experiment = data_files.resolve(config.read(file))[0] if PICTURES else config.read(file)
        one = pipeline.run(experiment, file)
        other = experiment.model_copy(deep=True)
        other.stages[0].training["learning_rate"] = 0.02
        run_id = pipeline.train(other, file)
        pipeline.diagnose(other, run_id)
        yield one, pipeline.make_report(other, run_id), request.param


def test_the_ui_shows_what_was_logged_and_compares_it_without_any_set_up(two, browser):
    one, other, database = two
    client, server = MlflowClient(), mlflow.get_tracking_uri()
    parent = client.get_run(one.run_id)
    experiment, name = parent.info.experiment_id, parent.info.run_name
    tree = client.search_runs([experiment])
    children = [r for r in tree if r.data.tags.get("mlflow.parentRunId") == one.run_id]
    trials = [r for r in children if "ilp.trial" in r.data.tags]
    stage = one.checkpoints[1].name
    data = {d.dataset.name: d.dataset.digest for d in parent.inputs.dataset_inputs}
    causes = {
        r["sample_id"]: r["cause"]
        for r in runs.read_table(one.run_id, "diagnosis.parquet").to_pylist()
    }
    first = next(iter(causes))

    def page(title, path, *texts):
        browser.goto("about:blank")  # MLflow's own router would keep what another page had
        browser.goto(f"{server}/#/{path}{'&' if '?' in path else '?'}workflowType=machine_learning")
        shows(browser, *texts)
        picture(title)

    def picture(title):
        if PICTURES:
            for width in (390, 1280):
                browser.set_viewport_size({"width": width, "height": 800})
                browser.wait_for_timeout(2000)  # what is still being drawn
                browser.screenshot(path=Path(PICTURES, f"ui-{title}-{width}.png"))

    def comparing(chosen):
        ids, where = json.dumps([r.info.run_id for r in chosen]), json.dumps([experiment])
        return f"compare-runs?runs={quote(ids)}&experiments={quote(where)}"

    browser.goto(server)
    shows(browser, "MLflow Assistant")  # opens by itself, once
    browser.evaluate("localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false')")
    all_runs, every = f"experiments/{experiment}/runs", quote("tags.`ilp.trial` LIKE '%'")
    best_first = (
        f"searchFilter={every}&orderByKey={quote('metrics.`unlearned_rate`')}&orderByAsc=true"
    )
    page("runs", all_runs, name, f"{name} 2", f"{stage} ({data[stage]})")
    said = parent.data.tags["mlflow.note.content"].split("\n")[0]
    names = [c.info.run_name for c in children]
    page(
        "overview",
        f"{all_runs}/{one.run_id}",
        said,
        "most recovered (by its control)",
        "ilp.kind",
        data[stage],
        *names,
    )
    page(
        "charts",
        f"{all_runs}?compareRunsMode=CHART",
        "cause",
        "forgetting",
        "learned",
        name,
        f"{name} 2",
    )
    table = "Group by: sample_id", "Compare: cause"
    page(
        "samples",
        f"{all_runs}?compareRunsMode=ARTIFACT",
        *table,
        first,
        causes[first],
        name,
        f"{name} 2",
    )
    page(
        "trials",
        f"{all_runs}?{best_first}&compareRunsMode=ARTIFACT",
        *table,
        *(r.info.run_name for r in trials),
    )
    page(
        "models",
        f"experiments/{experiment}/models",
        f"{one.name}-{stage}",
        f"{stage} (#{data[stage]})",
    )
    made = client.get_run(one.checkpoints[1].run_id).outputs.model_outputs[0].model_id
    page(
        "model",
        f"experiments/{experiment}/models/{made}",
        f"learned/{stage}",
        f"{stage} (#{data[stage]})",
    )
    pair = [client.get_run(r.run_id) for r in (one, other)]
    page(
        "compare",
        comparing(pair),
        "Comparing 2 Runs",
        f"ilp.{stage}.learning_rate",
        "unlearned_rate",
        f"{name} 2",
    )
    rates = [r.data.metrics["unlearned_rate"] for r in trials]
    # which metric is an axis is up to the database: SQLite hands them out as they came, PostgreSQL what was changed last
    ends = (f"{min(rates):.5f}", f"{max(rates):.5f}") if database == "sqlite" else ()
    axes = "ilp.mitigation", "unlearned_rate", *ends
    page(
        "compare-trials",
        comparing(trials),
        f"Comparing {len(trials)} Runs",
        *axes,
        *(r.info.run_name for r in trials),
    )


def test_the_report_works_in_the_frame_that_mlflow_shows_it_in(two, browser):
    one, *_ = two
    experiment = MlflowClient().get_run(one.run_id).info.experiment_id
    path = f"experiments/{experiment}/runs/{one.run_id}/artifacts/ilp/report.html"
    browser.goto(f"{mlflow.get_tracking_uri()}/#/{path}?workflowType=machine_learning")
    frame = browser.wait_for_selector("iframe").content_frame()
    shows(frame, "How many are unlearned", f"{len(one.diagnoses)} samples")
    wanted = one.diagnoses[0].verdict.sample_id
    frame.locator("#search").fill("nobody")
    shows(frame, "0 samples")
    frame.locator("#search").fill(wanted)
    shows(frame, "1 to ", wanted)
    frame.evaluate("document.querySelector('#rows details').open = true")
    shows(frame, "should say")
    light = frame.evaluate("getComputedStyle(document.body).backgroundColor")
    browser.emulate_media(color_scheme="dark")
    assert frame.evaluate("getComputedStyle(document.body).backgroundColor") != light


def test_runs_are_two_levels_with_names_of_their_own_and_nothing_is_logged_twice(two):
    client = MlflowClient()
    one, other, _ = two
    runs = client.search_runs([client.get_run(one.run_id).info.experiment_id])
    names = Counter(r.info.run_name for r in runs)
    assert set(names.values()) == {1}
    parents = {r.info.run_id for r in runs if "mlflow.parentRunId" not in r.data.tags}
    assert parents == {one.run_id, other.run_id}
    assert {
        r.data.tags["mlflow.parentRunId"] for r in runs if r.info.run_id not in parents
    } == parents
    for run in runs:
        inputs = [(d.dataset.name, d.dataset.digest) for d in run.inputs.dataset_inputs]
        assert inputs
        assert len(inputs) == len(set(inputs))
        for metric in run.data.metrics:
            steps = [m.step for m in client.get_metric_history(run.info.run_id, metric)]
            assert len(steps) == len(set(steps)), (run.info.run_name, metric)


def test_models_know_their_metrics_and_data_and_are_found_by_their_tags(two):
    client = MlflowClient()
    one, *_ = two
    parent = client.get_run(one.run_id)
    data = {d.dataset.name: d.dataset.digest for d in parent.inputs.dataset_inputs}
    for step, checkpoint in enumerate(one.checkpoints[1:], 1):
        run = client.get_run(checkpoint.run_id)
        (made,) = run.outputs.model_outputs
        metrics = {
            (m.key, m.dataset_name): m for m in client.get_logged_model(made.model_id).metrics
        }
        learned = metrics[f"learned/{checkpoint.name}", checkpoint.name]
        assert (learned.value, learned.step) == (
            one.retention[checkpoint.name][checkpoint.name],
            step,
        )
        assert learned.dataset_digest == data[checkpoint.name]
        assert metrics["tokens", checkpoint.name].value == run.data.metrics["tokens"]
    stages = client.search_registered_models("tags.`ilp.kind` = 'stage'")
    assert {m.name for m in stages} == {f"{one.name}.{c.name}" for c in one.checkpoints[1:]}
    found = client.search_model_versions(
        f"tags.`ilp.experiment` = '{one.name}' and tags.`ilp.index` = '1'"
    )
    assert [int(v.version) for v in found] == [2, 1]
