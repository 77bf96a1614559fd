"""MLflow: runs, registered models, project runs, judges."""
