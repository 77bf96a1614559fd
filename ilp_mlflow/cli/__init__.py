"""The `ilp` command: parse, call, print. Heavy imports happen inside the commands."""

# each of these modules adds its commands to `main`
from ilp_mlflow.cli import check, checkpoints, environment, experiments, lab, show
from ilp_mlflow.cli.app import main

__all__ = ["check", "checkpoints", "environment", "experiments", "lab", "main", "show"]
