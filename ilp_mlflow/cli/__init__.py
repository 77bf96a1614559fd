"""The `ilp` command: parse, call, print. Heavy imports happen inside the commands."""

from ilp_mlflow.cli import experiments, lab, machine, models
from ilp_mlflow.cli.group import main

__all__ = ["experiments", "lab", "machine", "main", "models"]
