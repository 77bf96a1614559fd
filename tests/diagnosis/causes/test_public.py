"""Built-in causes are ordinary plugins: what they import from outside `diagnosis` is public."""

import ast
from pathlib import Path

import pytest

import ilp_mlflow.diagnosis.causes
import ilp_mlflow.plugin

FILES = sorted(Path(ilp_mlflow.diagnosis.causes.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_public_names_suffice_to_write_a_cause(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    modules = [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    ]
    assert not [module for module in modules if module.startswith("ilp_mlflow")]
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ilp_mlflow"):
            assert node.module != "ilp_mlflow.plugin"  # it exports the details of the causes
            if not node.module.startswith("ilp_mlflow.diagnosis."):
                names |= {alias.name for alias in node.names}
    assert names <= set(ilp_mlflow.plugin.__all__)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_details_of_a_cause_are_public(file):
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name.endswith("Details"):
            kind = getattr(ilp_mlflow.plugin, node.name)
            assert kind.cause == file.stem
            assert all(field.description for field in kind.model_fields.values())
            assert kind() == kind()  # each field has a default
