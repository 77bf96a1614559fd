"""The commands that say what is installed."""

import re
from pathlib import Path

from ilp_mlflow.core import plugin_loader
from ilp_mlflow.diagnosis import causes
from tests.cli.commands import document, ilp


def test_plugins_lists_every_cause_of_the_core_and_the_mitigations():
    plugins = document("plugins")
    assert plugins["failed"] == []
    # a cause is one file
    files = {file.stem for file in Path(causes.__file__).parent.glob("[a-z]*.py")}
    assert {p["name"] for p in plugins["plugins"] if p["distribution"] == "ilp-mlflow"} == files
    control = {
        "name": "control",
        "kind": "mitigation",
        "distribution": "ilp-mitigations",
        "options": {},
    }
    assert control in plugins["plugins"]


def test_doctor_says_whether_mlflow_answers(store):
    assert "answers" in document("doctor")["tracking"]


def test_every_option_of_every_plugin_is_explained_within_80_columns():
    code, out, _ = ilp("plugins")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    options = [line for line in out.splitlines() if re.match(r" {6}[\w.]+: ", line)]
    assert len(options) > 30
    fields = [
        f
        for kind in plugin_loader.GROUPS
        for p in plugin_loader.installed(kind)
        for f in p.cls.model_fields.values()
    ]
    assert all(field.description for field in fields)
