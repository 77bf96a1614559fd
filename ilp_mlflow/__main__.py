"""`python -m ilp_mlflow` is `ilp`."""

from ilp_mlflow.cli import main

main()
