"""Which fine-tuning samples did the model not learn, since when, why, and what fixes it."""

import importlib
from typing import Any

from ilp_mlflow.answers import agree, answered, gist, same_prompt, shown, text_of
from ilp_mlflow.cache import kept
from ilp_mlflow.errors import ConfigError, DatasetError, IlpError, ModelError, PluginError, TrackingError
from ilp_mlflow.judge import ruling, written
from ilp_mlflow.knowledge import knowledge
from ilp_mlflow.neighbours import similar
from ilp_mlflow.plugin import TAUGHT, Batch, Belief, Context, Diagnostic, History, Mitigation, Probe, Result, Round, Said, Schedule
from ilp_mlflow.types import (
    Checkpoint,
    Diagnosis,
    Evidence,
    Exchange,
    Exposure,
    Message,
    Outcome,
    Plan,
    Report,
    Request,
    Sample,
    Score,
    Signal,
    Stage,
    Tally,
    Text,
    Value,
    Verdict,
    to_rows,
    to_table,
)
from ilp_mlflow.votes import Near, Votes

__all__ = [
    "TAUGHT",
    "Batch",
    "Belief",
    "Checkpoint",
    "ConfigError",
    "Context",
    "DatasetError",
    "Diagnosis",
    "Diagnostic",
    "Evidence",
    "Exchange",
    "Exposure",
    "History",
    "IlpCallback",
    "IlpError",
    "Message",
    "Mitigation",
    "ModelError",
    "Near",
    "Outcome",
    "Plan",
    "PluginError",
    "Probe",
    "Report",
    "Request",
    "Result",
    "Round",
    "Said",
    "Sample",
    "Schedule",
    "Score",
    "Signal",
    "Stage",
    "Tally",
    "Text",
    "TrackingError",
    "Value",
    "Verdict",
    "Votes",
    "agree",
    "answered",
    "gist",
    "kept",
    "knowledge",
    "ruling",
    "same_prompt",
    "shown",
    "similar",
    "text_of",
    "to_rows",
    "to_table",
    "written",
]


def __getattr__(name: str) -> Any:
    """`IlpCallback`, imported when it is asked for: it needs torch and TRL, which take seconds."""
    if name == "IlpCallback":
        return importlib.import_module("ilp_mlflow.callback").IlpCallback
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
