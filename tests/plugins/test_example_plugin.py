"""A third party's distribution: the tutorial of docs/plugins.md, installed where nothing but the core is, and tried on a run."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml
from ilp_example.long_completion import LongCompletion
from ilp_example.slower import Slower
from mlflow import MlflowClient

from ilp_mlflow import Diagnosis, Verdict, pipeline
from ilp_mlflow.core import config
from ilp_mlflow.mitigation.plans import plan_trials
from ilp_mlflow.report.summary import terminal_summary
from ilp_mlflow.tracking import runs
from tests.conftest import edit_yaml, rows, write_jsonl
from tests.contexts import context, sample
from tests.test_pipeline import plug

ROOT = Path(__file__).parents[2]
PLUGINS = ("long_completion", "passes_tests", "slower")
EXAMPLE = ROOT / "plugins" / "ilp-example"
BROKEN = """
[project]
name = "ilp-broken"
version = "1"
entry-points."ilp_mlflow.mitigations".torn = "ilp_broken:Torn"
entry-points."ilp_mlflow.diagnostics".torn_too = "ilp_broken:Torn"

[tool.setuptools]
py-modules = ["ilp_broken"]
"""


class Home:
    """A virtual environment with the core, and only what is installed into it of plugins."""

    def __init__(self, folder):
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
        # what the core needs is borrowed from this environment: installing it takes minutes
        borrowed = folder / "borrowed" / "site-packages"
        borrowed.mkdir(parents=True)
        for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
            for entry in Path(place).iterdir():
                if (
                    not re.match(r"ilp|__editable__.*ilp|__pycache__", entry.name)
                    and not (borrowed / entry.name).exists()
                ):
                    (borrowed / entry.name).symlink_to(entry)
        (next(folder.glob("venv/lib/python*/site-packages")) / "borrowed.pth").write_text(
            str(borrowed)
        )
        self.install(ROOT, "pyproject.toml", "README.md", "LICENSE", "ilp_mlflow")

    def install(self, source, *parts):
        """Install the named parts of a source folder as pip does it, offline."""
        copy = self.folder / "sources" / source.name
        copy.mkdir(parents=True)
        for part in parts:
            (shutil.copytree if (source / part).is_dir() else shutil.copy)(
                source / part, copy / part
            )
        options = [
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
            "--disable-pip-version-check",
            "-q",
        ]
        self.run(
            sys.executable,
            "-m",
            "pip",
            "--python",
            self.folder / "venv" / "bin" / "python",
            "install",
            *options,
            copy,
        )

    def run(self, *command):
        """What a command prints; it must succeed."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_"))}
        done = subprocess.run(
            [str(c) for c in command],
            capture_output=True,
            text=True,
            env=clean,
            cwd=self.folder,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ilp(self, *arguments):
        """What its `ilp` prints."""
        return self.run(self.folder / "venv" / "bin" / "ilp", *arguments)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A virtual environment with the core and the example."""
    home = Home(tmp_path_factory.mktemp("home"))
    home.install(EXAMPLE, "pyproject.toml", "ilp_example")
    return home


@pytest.mark.slow
def test_an_installed_plugin_is_found_and_one_that_does_not_import_is_named(home, tmp_path):
    listed = json.loads(home.ilp("plugins", "--json"))
    third_party = [p for p in listed["plugins"] if p["distribution"] != "ilp-mlflow"]
    assert third_party == [
        {
            "name": "long_completion",
            "kind": "diagnostic",
            "distribution": "ilp-example",
            "options": {"longer": 0.95, "doubt": 1.0},
        },
        {
            "name": "slower",
            "kind": "mitigation",
            "distribution": "ilp-example",
            "options": {"cause": "long_completion", "times": 2},
        },
    ]
    assert listed["failed"] == []

    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "pyproject.toml").write_text(BROKEN)
    (tmp_path / "broken" / "ilp_broken.py").write_text("raise RuntimeError('needs a licence')\n")
    home.install(tmp_path / "broken", "pyproject.toml", "ilp_broken.py")
    again = json.loads(home.ilp("plugins", "--json"))
    assert again["plugins"] == listed["plugins"]
    reason = {"distribution": "ilp-broken", "error": "RuntimeError: needs a licence"}
    assert again["failed"] == [{"name": "torn_too", **reason}, {"name": "torn", **reason}]

    text = home.ilp("plugins")
    assert max(map(len, text.splitlines())) <= 80
    shown = " ".join(text.split())
    assert (
        "slower (ilp-example): Train the stages that hold the targets at a lower learning rate"
        in shown
    )
    assert (
        "times: int = 2 - The learning rate is divided, the epochs are multiplied by this." in shown
    )
    assert "torn (ilp-broken): RuntimeError: needs a licence" in shown


@pytest.mark.slow
def test_its_diagnostic_names_a_cause_and_its_mitigation_is_tried(
    experiment_file, store, tmp_path, monkeypatch
):
    plug(monkeypatch, long_completion=LongCompletion, slower=Slower)
    long = [
        {"id": f"long {n}", "prompt": f"Say {n}:", "completion": f" {n}x{n * 7}q{n * 5}" * 4}
        for n in (3, 5, 8)
    ]
    short = [{**row, "completion": " Rome"} for prefix in ("old ", "new ") for row in rows(prefix)]
    write_jsonl(tmp_path / "first.jsonl", [*short, *long])
    (stage, _) = yaml.safe_load(experiment_file.read_text())["stages"]
    stage["training"] |= {"num_train_epochs": 12}
    edited = edit_yaml(
        experiment_file,
        stages=[{**stage, "peft": None}],
        diagnostics=["long_completion"],
        mitigations=["slower"],
    )
    report = pipeline.run(config.read(edited), edited)
    targets = {row["id"] for row in long}
    assert {
        d.verdict.sample_id for d in report.diagnoses if d.cause == "long_completion"
    } == targets
    client = MlflowClient()
    assert client.get_run(report.run_id).data.metrics["cause/long_completion"] == pytest.approx(
        3 / 19
    )
    assert runs.read_table(report.run_id, "diagnosis.parquet")["long_completion"].null_count == 16
    assert "long_completion: 3 of 3 unlearned samples" in terminal_summary(report)
    assert '<th scope="row">long_<wbr>completion</th><td data-is="samples">3</td>' in runs.read(
        report.run_id, "report.html"
    )

    (outcome,) = report.outcomes
    assert (outcome.mitigation, set(outcome.targets)) == ("slower", targets)
    assert outcome.causes["long_completion"].unlearned == 3
    assert (
        client.get_run(outcome.control_run_id).data.metrics["tokens"] == outcome.tokens
    )  # as much training
    assert "net_recovery/slower" in client.get_run(report.run_id).data.metrics


def test_the_control_starts_where_the_mitigation_does_and_sees_as_much():
    known = context(
        [sample(f"{stage}{n}", stage=stage) for stage in ("first", "second") for n in range(4)]
    )
    verdict = Verdict(sample_id="second1", status="unlearned")
    plan = Slower().plan([Diagnosis(verdict=verdict, cause="long_completion")], known)
    remedy, control = plan_trials("slower", plan, known)
    assert remedy.start.name == control.start.name == "first"
    (slow,), (plain,) = remedy.stages, control.stages
    assert slow.samples == plain.samples == known.stages[1].samples
    assert {**slow.training, "learning_rate": 2e-5} == plain.training


@pytest.mark.parametrize(
    "file",
    [
        "pyproject.toml",
        *(f"ilp_example/{name}.py" for name in PLUGINS),
        "tests/test_ilp_example.py",
    ],
)
def test_the_tutorial_shows_the_very_files(file):
    text = (EXAMPLE / file).read_text(encoding="utf-8")
    language = "toml" if file.endswith("toml") else "python"
    assert f"`{file}`:\n\n```{language}\n{text}```\n" in (ROOT / "docs" / "plugins.md").read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize("name", PLUGINS)
def test_a_plugin_fits_on_a_screen(name):
    assert (
        len((EXAMPLE / "ilp_example" / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= 40
    )
