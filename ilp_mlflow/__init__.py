"""Which fine-tuning samples did the model not learn, since when, why, and what fixes it.

Names for users. Authors of plugins find theirs in `ilp_mlflow.plugin`.
"""

import importlib
from typing import Any

from ilp_mlflow.core.errors import (
    ConfigError,
    DatasetError,
    IlpError,
    ModelError,
    PluginError,
    TrackingError,
)
from ilp_mlflow.core.values import (
    Checkpoint,
    Diagnosis,
    Evidence,
    Exposure,
    Outcome,
    Report,
    Sample,
    Score,
    Signal,
    Verdict,
    to_rows,
)

__all__ = [
    "Checkpoint",
    "ConfigError",
    "DatasetError",
    "Diagnosis",
    "Evidence",
    "Exposure",
    "IlpCallback",
    "IlpError",
    "ModelError",
    "Outcome",
    "PluginError",
    "Report",
    "Sample",
    "Score",
    "Signal",
    "TrackingError",
    "Verdict",
    "to_rows",
]


def __getattr__(name: str) -> Any:
    """`IlpCallback`, imported when it is asked for: it needs torch and TRL, which take seconds."""
    if name == "IlpCallback":
        return importlib.import_module("ilp_mlflow.trl_callback").IlpCallback
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
