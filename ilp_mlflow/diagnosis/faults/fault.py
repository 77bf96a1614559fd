"""What a mechanical fault is, and what it says of samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from pydantic import Field

from ilp_mlflow.core.value import Value
from ilp_mlflow.core.values import Evidence, Finding, Subject

FaultCause = Literal["not_trained", "faulty_checkpoint", "failed_optimization"]
"""What a fault is the cause of: the samples never reached the loss as they stand in the file; the
weights are not what training made; the optimizer did not get anywhere."""


class Fault(Value):
    """One mechanical fault, of a whole stage, checkpoint or run, or of single rows."""

    kind: str
    """Short name, for programs: `end_not_in_the_loss`."""
    cause: FaultCause
    """The cause of the samples it speaks for."""
    reason: str
    """What is so, with its figures, in one sentence; of single rows, what they have in common."""
    change: str
    """What mends it, as one would be told to do it; "" where nothing does."""
    strength: float = Field(default=1.0, ge=0, le=1)
    """How sure, 0..1."""
    subject: Subject | None = None
    """What it is about; None: single rows."""
    samples: tuple[str, ...] = ()
    """Ids of the unlearned samples it speaks for; () for a fault that is only to be known."""
    reasons: dict[str, str] = Field(default_factory=dict)
    """What is so of single samples, by id, in place of `reason`."""
    stops: bool = False
    """Whether nothing else is looked for in these samples."""


class FaultEvidence(NamedTuple):
    """What faults say, as the attribution and the report take it."""

    by_kind: dict[str, dict[str, Evidence]]
    """Evidence by sample id, by the kind of the fault."""
    findings: list[Finding]
    """What is true of more than single rows, once each."""
    stopped: frozenset[str]
    """Ids of samples in which nothing else is looked for."""


def read_faults(faults: Sequence[Fault]) -> FaultEvidence:
    """The evidence for samples and the findings that faults come to.

    A sample of which several faults of one kind speak has the evidence of the first.
    """
    by_kind: dict[str, dict[str, Evidence]] = {}
    findings = []
    stopped: set[str] = set()
    for fault in faults:
        of_kind = by_kind.setdefault(fault.kind, {})
        for id_ in fault.samples:
            of_kind.setdefault(id_, _evidence(fault, fault.reasons.get(id_, fault.reason)))
        if fault.stops:
            stopped.update(fault.samples)
        if fault.subject is not None:
            findings.append(
                Finding(
                    subject=fault.subject,
                    kind=fault.kind,
                    evidence=_evidence(fault, fault.reason),
                    samples=len(fault.samples),
                    stops=fault.stops,
                )
            )
    return FaultEvidence(by_kind, findings, frozenset(stopped))


def _evidence(fault: Fault, reason: str) -> Evidence:
    return Evidence(
        cause=fault.cause,
        strength=fault.strength,
        reason=reason,
        change=fault.change,
        details={"fault": fault.kind},
    )
