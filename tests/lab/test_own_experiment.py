"""The lab's own experiment comes with the package, wherever that is installed."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

import ilp_mlflow
from ilp_mlflow.cli import main
from ilp_mlflow.core import config
from ilp_mlflow.lab import data_files

ROOT = Path(__file__).parents[2]
SMALLEST = """
from ilp_mlflow.lab import data_files
data_files.SIZES = {"full": data_files.SIZES["smoke"]}
import ilp_mlflow
print(ilp_mlflow.__file__)
from ilp_mlflow.cli import main
main(["lab", "--quiet"])
"""
"""Runs `ilp lab` as it comes, over the rows of the smallest lab."""


def test_without_an_experiment_it_is_the_one_of_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert data_files.EXPERIMENT.parent == Path(ilp_mlflow.__file__).parent / "lab"
    assert config.is_lab(config.read(data_files.EXPERIMENT))
    result = CliRunner().invoke(main, ["lab", "--mitigate", "some"])
    assert (result.exit_code, "--mitigate some" in result.stderr) == (2, True)
    result = CliRunner().invoke(main, ["lab", "--seed", "x"])
    assert (result.exit_code, "seed" in result.stderr) == (2, True)


@pytest.mark.long
def test_a_lab_runs_where_only_the_wheel_is_installed(tmp_path):
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    wheels, target = tmp_path / "wheels", tmp_path / "installed"
    built = [*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", str(wheels)]
    subprocess.run([*built, str(_copy(tmp_path / "source"))], check=True, timeout=300)
    (wheel,) = wheels.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "ilp_mlflow/lab/lab.yaml" in names
    assert "ilp_mlflow/report/report.html.j2" in names
    install = [*pip, "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True, timeout=300)

    # an environment that holds the libraries and no clone: -S leaves out editable installations
    home = tmp_path / "home"
    home.mkdir()
    paths = os.pathsep.join([str(target), sysconfig.get_paths()["purelib"]])
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PYTHONPATH"))}
    env |= {"PYTHONPATH": paths, "XDG_CACHE_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    env["MLFLOW_TRACKING_URI"] = f"sqlite:///{home / 'mlflow.db'}"
    ran = subprocess.run(
        [sys.executable, "-S", "-c", SMALLEST],
        cwd=home,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    place, *lines = ran.stdout.splitlines()
    assert Path(place).is_relative_to(target)
    assert any(line.startswith("left_side_forgetting") for line in lines)


def _copy(folder):
    """What a wheel is built from; building in the clone itself would leave files there."""
    folder.mkdir()
    files = subprocess.run(
        [
            "git",
            "ls-files",
            "-co",
            "--exclude-standard",
            "ilp_mlflow",
            "pyproject.toml",
            "*.md",
            "LICENSE",
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in files.stdout.splitlines():
        source = ROOT / name
        if source.exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(source.read_bytes())
    return folder
