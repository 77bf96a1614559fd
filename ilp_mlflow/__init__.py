"""Which fine-tuning samples did the model not learn, since when, why, and what fixes it."""

from ilp_mlflow.answers import agree, answered, gist, same_prompt, shown, text_of
from ilp_mlflow.errors import ConfigError, DatasetError, IlpError, ModelError, PluginError, TrackingError
from ilp_mlflow.judge import ruling
from ilp_mlflow.knowledge import knowledge
from ilp_mlflow.neighbours import similar
from ilp_mlflow.plugin import Batch, Belief, Context, Diagnostic, History, Mitigation, Probe, Said, Schedule
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
    Sample,
    Score,
    Signal,
    Stage,
    Text,
    Value,
    Verdict,
    to_rows,
)
from ilp_mlflow.votes import Near, Votes

__all__ = [
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
    "Said",
    "Sample",
    "Schedule",
    "Score",
    "Signal",
    "Stage",
    "Text",
    "TrackingError",
    "Value",
    "Verdict",
    "Votes",
    "agree",
    "answered",
    "gist",
    "knowledge",
    "ruling",
    "same_prompt",
    "shown",
    "similar",
    "text_of",
    "to_rows",
]
