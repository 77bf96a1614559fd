"""The table of thresholds in docs/method.md is the code's."""

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import ilp_mlflow
from ilp_mlflow.diagnosis.attribution import CAUSE_ORDER

TEXT = (Path(__file__).parents[2] / "docs" / "method.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `(\w+)\.(\w+)` \| ([\d.]+) \| .+ \|$", TEXT, flags=re.MULTILINE)


def options(name):
    """Options of a built-in diagnostic with their defaults."""
    module = importlib.import_module(f"ilp_mlflow.diagnosis.causes.{name}")
    return getattr(module, "".join(part.title() for part in name.split("_"))).model_fields


MODULES = {
    info.name.rpartition(".")[2]: info.name
    for info in pkgutil.walk_packages(ilp_mlflow.__path__, "ilp_mlflow.")
}


@pytest.mark.parametrize(("module", "name", "value"), ROWS)
def test_a_threshold_is_the_one_in_the_code(module, name, value):
    if module in CAUSE_ORDER and name in options(module):
        assert options(module)[name].default == float(value)
    else:
        assert getattr(importlib.import_module(MODULES[module]), name) == float(value)


def test_every_number_among_the_options_of_a_diagnostic_is_in_the_table():
    named = {(module, name) for module, name, _ in ROWS}
    numbers = {
        (cause, n)
        for cause in CAUSE_ORDER
        for n, o in options(cause).items()
        if isinstance(o.default, int | float)
    }
    assert numbers <= named
