"""Built-in causes are ordinary plugins: they import public names, and what stands beside them in `diagnosis`."""

import ast
from pathlib import Path

import pytest

import ilp_mlflow.diagnosis.causes
import ilp_mlflow.plugin

FILES = sorted(Path(ilp_mlflow.diagnosis.causes.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_only_public_names_are_imported(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    modules = [node.module or "" for node in imports]
    modules += [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    ]
    ours = {module for module in modules if module.startswith("ilp_mlflow")}
    assert {module for module in ours if not module.startswith("ilp_mlflow.diagnosis.")} <= {
        "ilp_mlflow.plugin"
    }
    names = {
        alias.name for node in imports if node.module == "ilp_mlflow.plugin" for alias in node.names
    }
    assert names <= set(ilp_mlflow.plugin.__all__)
