"""Evidence about a whole stage, checkpoint or run. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ilp_mlflow.core.errors import PluginError, suggest
from ilp_mlflow.core.interfaces import Context
from ilp_mlflow.core.values import Evidence, Finding, Sample, Subject


def check_subject(subject: Subject, context: Context) -> None:
    """Raise PluginError for a stage or a checkpoint that the experiment does not have."""
    if subject.kind == "stage":
        names = [stage.name for stage in context.stages]
    elif subject.kind == "checkpoint":
        names = [checkpoint.name for checkpoint in context.checkpoints]
    else:
        return
    if subject.name not in names:
        raise PluginError(
            f"evidence for {subject.kind} '{subject.name}', which the experiment does not have; "
            f"{suggest(subject.name, names)}"
        )


def spread_findings(
    evidence: Mapping[str | Subject, Evidence], unlearned: Sequence[Sample], context: Context
) -> tuple[dict[str, Evidence], list[Finding]]:
    """The evidence of one diagnostic for single samples, by id, and what it found for subjects.

    Evidence for a subject speaks for each of its unlearned samples that has none so far: that of a
    sample goes first, then that of the subjects in their order.
    """
    # First, so that what is said of a sample itself goes before what is said of its subjects.
    evidence_by_id: dict[str, Evidence] = {}
    for key, value in evidence.items():
        if isinstance(key, str):
            evidence_by_id[key] = value
    findings = []
    for key, value in evidence.items():
        if isinstance(key, Subject):
            spoken_for = 0
            for sample in unlearned:
                if sample.id not in evidence_by_id and _concerns(key, sample, context):
                    evidence_by_id[sample.id] = _spread(value, key)
                    spoken_for += 1
            findings.append(Finding(subject=key, evidence=value, samples=spoken_for))
    return evidence_by_id, findings


def _spread(evidence: Evidence, subject: Subject) -> Evidence:
    """The evidence for a subject, as it speaks for one of its samples."""
    what = f"{subject.kind} '{subject.name}'" if subject.name else "the run"
    return evidence.model_copy(update={"subject": subject, "reason": f"as is said of {what}"})


def _concerns(subject: Subject, sample: Sample, context: Context) -> bool:
    """Whether what is true of a subject may be why a sample is not learned."""
    if subject.kind == "stage":
        return sample.stage == subject.name
    if subject.kind == "checkpoint":
        # What a checkpoint had is not to blame on it.
        history = zip(context.checkpoints, context.histories[sample.id], strict=True)
        return any(c.name == subject.name and status == "unlearned" for c, status in history)
    return True
