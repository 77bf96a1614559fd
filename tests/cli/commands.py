"""Commands as a user types them, and an experiment's file changed as a user may change it."""

import json

import yaml
from click.testing import CliRunner

from ilp_mlflow.cli import main
from tests.conftest import edit_yaml


def ilp(*arguments):
    """Run a command in this process; returns exit code, stdout, stderr."""
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    return result.exit_code, result.stdout, result.stderr


def document(*arguments):
    """Run a command that succeeds, with --json; returns what it prints."""
    code, out, err = ilp(*arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def stage(path, index=0, **changes):
    """Change keys of one stage in an experiment file."""
    stages = yaml.safe_load(path.read_text())["stages"]
    stages[index] |= changes
    return edit_yaml(path, stages=stages)
