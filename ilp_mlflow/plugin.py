"""Names for authors of plugins: interfaces, the values that go in and out, and text functions."""

from ilp_mlflow.core.cache import cached
from ilp_mlflow.core.errors import PluginError
from ilp_mlflow.core.interfaces import (
    MIN_TAUGHT_SHARE,
    Batch,
    Belief,
    Context,
    Diagnostic,
    Firmness,
    GreedyAnswer,
    History,
    Mitigation,
    Probe,
    Round,
    SampleResult,
    Schedule,
    SlickClass,
    UnlearnedRisk,
)
from ilp_mlflow.core.texts import Conversation, Exchange, Message, Text
from ilp_mlflow.core.value import Value
from ilp_mlflow.core.values import (
    Checkpoint,
    Details,
    Diagnosis,
    Evidence,
    Exposure,
    Finding,
    Outcome,
    Plan,
    Report,
    Request,
    Sample,
    Score,
    Signal,
    Stage,
    Subject,
    Tally,
    Verdict,
    to_rows,
    to_table,
)
from ilp_mlflow.data.matching import (
    answer_key,
    excerpt,
    prompt_key,
    prompt_text,
    same_answer,
    with_answer,
)
from ilp_mlflow.data.similarity import similar_rows
from ilp_mlflow.diagnosis.causes.data_contradiction import ContradictionDetails
from ilp_mlflow.diagnosis.causes.insufficient_optimization import OptimizationDetails
from ilp_mlflow.diagnosis.causes.knowledge_conflict import KnowledgeConflictDetails
from ilp_mlflow.diagnosis.causes.left_side_forgetting import ForgettingDetails
from ilp_mlflow.diagnosis.causes.missing_knowledge import MissingKnowledgeDetails
from ilp_mlflow.diagnosis.causes.not_trained import NotTrainedDetails
from ilp_mlflow.tracking.llm_judge import judge_contradiction, write_texts

__all__ = [
    "MIN_TAUGHT_SHARE",
    "Batch",
    "Belief",
    "Checkpoint",
    "Context",
    "ContradictionDetails",
    "Conversation",
    "Details",
    "Diagnosis",
    "Diagnostic",
    "Evidence",
    "Exchange",
    "Exposure",
    "Finding",
    "Firmness",
    "ForgettingDetails",
    "GreedyAnswer",
    "History",
    "KnowledgeConflictDetails",
    "Message",
    "MissingKnowledgeDetails",
    "Mitigation",
    "NotTrainedDetails",
    "OptimizationDetails",
    "Outcome",
    "Plan",
    "PluginError",
    "Probe",
    "Report",
    "Request",
    "Round",
    "Sample",
    "SampleResult",
    "Schedule",
    "Score",
    "Signal",
    "SlickClass",
    "Stage",
    "Subject",
    "Tally",
    "Text",
    "UnlearnedRisk",
    "Value",
    "Verdict",
    "answer_key",
    "cached",
    "excerpt",
    "judge_contradiction",
    "prompt_key",
    "prompt_text",
    "same_answer",
    "similar_rows",
    "to_rows",
    "to_table",
    "with_answer",
    "write_texts",
]
