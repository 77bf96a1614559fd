"""Evidence about a whole stage, checkpoint or run. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

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
    by_id = {key: found for key, found in evidence.items() if isinstance(key, str)}
    findings = []
    for subject, found in evidence.items():
        if isinstance(subject, Subject):
            ids = _unlearned_ids(subject, unlearned, context)
            silent_ids = [id_ for id_ in ids if id_ not in by_id]
            by_id.update(dict.fromkeys(silent_ids, found))
            findings.append(Finding(subject=subject, evidence=found, samples=len(silent_ids)))
    return by_id, findings


def _unlearned_ids(
    subject: Subject, unlearned: Sequence[Sample], context: Context
) -> Iterable[str]:
    """Ids of the unlearned samples that a subject holds."""
    if subject.kind == "stage":
        return [s.id for s in unlearned if s.stage == subject.name]
    if subject.kind == "checkpoint":
        names = [checkpoint.name for checkpoint in context.checkpoints]
        place = names.index(subject.name)
        return [s.id for s in unlearned if context.histories[s.id][place] == "unlearned"]
    return [s.id for s in unlearned]


def finding_sentence(finding: Finding) -> str:
    """A finding in one sentence: what is true, of what, and for how many samples it speaks."""
    evidence, subject = finding.evidence, finding.subject
    about = "the run" if subject.kind == "run" else f"{subject.kind} '{subject.name}'"
    samples = "sample" if finding.samples == 1 else "samples"
    reason = evidence.reason[:1].upper() + evidence.reason[1:]
    return (
        f"{reason}: {evidence.cause} ({evidence.strength:.2f}) "
        f"for {finding.samples} unlearned {samples} of {about}."
    )
