"""The whole plugin interface: pure functions of what is known; only the core trains, scores and logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ilp_mlflow.types import Checkpoint, Diagnosis, Evidence, Plan, Sample, Stage, Status, Text, Verdict

if TYPE_CHECKING:
    import pyarrow as pa

Batch = Sequence[str]
"""Ids of the samples of one batch."""


@dataclass(frozen=True)
class History:
    """What a schedule may know when it plans the next round."""

    sample_ids: Sequence[str]
    """The stage's samples that can be trained, in file order."""
    batch_size: int
    """Samples per batch."""
    seed: int
    """The stage's seed."""
    rounds: int
    """Rounds already trained."""


class Schedule(Protocol):
    """Decides in which order a stage sees its samples."""

    def next_round(self, history: History) -> Sequence[Batch] | None:
        """The batches of the next round, or None to stop training."""
        ...


class Said(NamedTuple):
    """What a checkpoint answers of its own accord."""

    text: str
    """Its first choice, token by token, up to the end of the sentence."""
    logprob: float
    """Log-probability of that, nats; nan where the prompt leaves no room for an answer."""


class Probe(Protocol):
    """Asks a checkpoint something the scores do not hold."""

    def logprobs(self, checkpoint: str, exchanges: Sequence[tuple[Text, Text]]) -> Sequence[float]:
        """Log-probability of each completion after its prompt, without its end token, nats; nan where it does not fit."""
        ...

    def say(self, checkpoint: str, prompts: Sequence[Text], max_new_tokens: int = 16) -> Sequence[Said]:
        """What it answers to each prompt, greedily."""
        ...

    def generate(self, checkpoint: str, prompts: Sequence[Text], n: int) -> Sequence[Sequence[str]]:
        """`n` sampled continuations of each prompt."""
        ...


@dataclass(frozen=True)
class Context:
    """All that is known about an experiment; read only."""

    stages: Sequence[Stage]
    checkpoints: Sequence[Checkpoint]
    """Base first."""
    samples: Mapping[str, Sample]
    """By id."""
    scores: pa.Table
    """Columns of `Score`."""
    verdicts: Mapping[str, Verdict]
    """By sample id."""
    histories: Mapping[str, Sequence[Status]]
    """Status under every checkpoint, by sample id."""
    probe: Probe
    exposures: pa.Table | None = None
    """Columns of `Exposure`; None for a model that was trained elsewhere."""
    signals: pa.Table | None = None
    """Columns of `Signal`; None for a model that was trained elsewhere."""


class Diagnostic(Protocol):
    """Finds evidence for one cause; a frozen pydantic model (`Value`) whose fields are its options."""

    def examine(self, unlearned: Sequence[Sample], context: Context) -> Mapping[str, Evidence]:
        """Evidence by sample id, for some or all of the `unlearned` samples and no other."""
        ...


class Mitigation(Protocol):
    """Plans a remedy; a frozen pydantic model (`Value`) whose fields are its options."""

    def plan(self, diagnoses: Sequence[Diagnosis], context: Context) -> Plan | None:
        """What to train, or None when there is nothing to do."""
        ...
