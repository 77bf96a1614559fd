"""The table of thresholds in docs/method.md is the code's."""

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import ilp_mlflow
from ilp_mlflow.core import plugin_loader
from ilp_mlflow.diagnosis.installed_causes import installed_causes

TEXT = (Path(__file__).parents[2] / "docs" / "method.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `(\w+)\.(\w+)` \| ([\d.]+) \| .+ \|$", TEXT, flags=re.MULTILINE)


BUILT_IN = {
    plugin.name: plugin.cls
    for plugin in plugin_loader.installed("diagnostic")
    if plugin.distribution == "ilp-mlflow"
}


def options(name):
    """Options of a built-in diagnostic with their defaults."""
    return BUILT_IN[name].model_fields


MODULES = {
    info.name.rpartition(".")[2]: info.name
    for info in pkgutil.walk_packages(ilp_mlflow.__path__, "ilp_mlflow.")
}


@pytest.mark.parametrize(("module", "name", "value"), ROWS)
def test_a_threshold_is_the_one_in_the_code(module, name, value):
    if module in BUILT_IN and name in options(module):
        assert options(module)[name].default == float(value)
    else:
        assert getattr(importlib.import_module(MODULES[module]), name) == float(value)


def test_every_number_among_the_options_of_a_diagnostic_is_in_the_table():
    named = {(module, name) for module, name, _ in ROWS}
    numbers = {
        (cause, n)
        for cause in BUILT_IN
        for n, o in options(cause).items()
        if isinstance(o.default, int | float)
    }
    assert numbers <= named


def test_the_table_of_causes_has_their_order():
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", TEXT, flags=re.MULTILINE)
    ordered = [cause.name for cause in installed_causes() if cause.name in BUILT_IN]
    assert rows == [(str(place), cause) for place, cause in enumerate(ordered, 1)]
