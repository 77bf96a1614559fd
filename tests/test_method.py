"""The table of thresholds in docs/method.md is the code's."""

import importlib
import re
from pathlib import Path

import pytest

from ilp_mlflow import diagnosis

TEXT = (Path(__file__).parents[1] / "docs" / "method.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `(\w+)\.(\w+)` \| ([\d.]+) \| .+ \|$", TEXT, flags=re.MULTILINE)


def options(name):
    """Options of a built-in diagnostic with their defaults."""
    module = importlib.import_module(f"ilp_mlflow.diagnostics.{name}")
    return getattr(module, "".join(part.title() for part in name.split("_"))).model_fields


@pytest.mark.parametrize(("module", "name", "value"), ROWS)
def test_a_threshold_is_the_one_in_the_code(module, name, value):
    if module in diagnosis.ORDER and name in options(module):
        assert options(module)[name].default == float(value)
    else:
        package = "ilp_mlflow.diagnostics" if module in diagnosis.ORDER else "ilp_mlflow"
        assert getattr(importlib.import_module(f"{package}.{module}"), name) == float(value)


def test_every_number_among_the_options_of_a_diagnostic_is_in_the_table():
    named = {(module, name) for module, name, _ in ROWS}
    numbers = {(cause, n) for cause in diagnosis.ORDER for n, o in options(cause).items() if isinstance(o.default, int | float)}
    assert numbers <= named
