"""Built-in diagnostics are ordinary plugins: they import the public names of `ilp_mlflow` only."""

import ast
from pathlib import Path

import pytest

import ilp_mlflow.diagnostics

FILES = sorted(Path(ilp_mlflow.diagnostics.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_only_public_names_are_imported(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    modules += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert {module for module in modules if module.startswith("ilp_mlflow")} <= {"ilp_mlflow"}
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module == "ilp_mlflow" for a in n.names}
    assert names <= set(ilp_mlflow.__all__)
