"""Rows that never reached the model: the training option that kept them from it is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ilp_mlflow.plugin import (
    Context,
    Diagnosis,
    Mitigation,
    NotTrainedDetails,
    Plan,
    Request,
    Stage,
)


class Repair(Mitigation):
    """Train the stages again without the option that left rows out: the cut, the template's mask,
    the dropped last batch.
    """

    prior: ClassVar[float] = 0.95
    """Net recovery 0..1 expected before any trial, from worlds of the lab (docs/results.md)."""

    def plan(self, diagnoses: Sequence[Diagnosis], context: Context) -> Plan | Request | None:
        """For the samples that training left out, from their first stage on.

        A request to look at the data where no training option is to blame.
        """
        targets, changes = list[str](), dict[str, dict[str, Any]]()
        unknown = list[str]()
        stages = {stage.name: stage for stage in context.stages}
        for diagnosis in diagnoses:
            if diagnosis.cause != "not_trained":
                continue
            id_ = diagnosis.verdict.sample_id
            stage = stages[context.samples[id_].stage]
            details = diagnosis.details(NotTrainedDetails) or NotTrainedDetails()
            change = _change(details, stage)
            if change:
                targets.append(id_)
                changes.setdefault(stage.name, {}).update(change)
            else:
                unknown.append(id_)
        if targets:
            return Plan(targets=tuple(targets), stages=_repaired(context.stages, changes))
        if unknown:
            return _request_inspection(unknown)
        return None


def _change(details: NotTrainedDetails, stage: Stage) -> dict[str, Any]:
    """Options that let a sample with this ledger reach the model; {} where none is to blame."""
    change: dict[str, Any] = {"max_length": None} if details.truncated_tokens else {}
    if details.exposures == 0 and stage.training.get("dataloader_drop_last"):
        change["dataloader_drop_last"] = False
    if not change and details.exposures and stage.training.get("assistant_only_loss"):
        change["assistant_only_loss"] = False
    return change


def _repaired(
    stages: Sequence[Stage], changes: Mapping[str, Mapping[str, Any]]
) -> tuple[Stage, ...]:
    """The stages with other training options, by stage name."""
    repaired = []
    for stage in stages:
        if stage.name not in changes:
            repaired.append(stage)
            continue
        training = {**stage.training, **changes[stage.name]}
        repaired.append(stage.model_copy(update={"training": training}))
    return tuple(repaired)


def _request_inspection(unknown: Sequence[str]) -> Request:
    """Asks for a look at samples (ids) that no training option kept out of the loss."""
    reason = (
        f"{len(unknown)} samples were not in the loss, the first is '{unknown[0]}', "
        "and no training option keeps them from it: look at the chat template and the end token"
    )
    return Request(targets=tuple(unknown), wanted={}, reason=reason)
