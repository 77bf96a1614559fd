"""Rows that never reached the model: the option that kept them from it is changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from ilp_mlflow.plugin import Context, Diagnosis, NotTrainedDetails, Plan, Request, Stage, Value


class Repair(Value):
    """Train the stages again without what the ledger names: the cut, the template's mask, the dropped last batch."""

    prior: ClassVar[float] = 0.95
    """Net recovery 0..1 to expect before anything was tried: about what it was on worlds of the lab (docs/results.md)."""

    def plan(self, diagnoses: Sequence[Diagnosis], context: Context) -> Plan | Request | None:
        """For the samples that training left out, from their first stage on; a request where no option is to blame."""
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
            repaired = [
                s.model_copy(update={"training": {**s.training, **changes[s.name]}})
                if s.name in changes
                else s
                for s in context.stages
            ]
            return Plan(targets=tuple(targets), stages=tuple(repaired))
        if not unknown:
            return None
        reason = (
            f"{len(unknown)} samples were not in the loss, the first is '{unknown[0]}', and no training option keeps them from it: "
            "look at the chat template and the end token"
        )
        return Request(targets=tuple(unknown), wanted={}, reason=reason)


def _change(details: NotTrainedDetails, stage: Stage) -> dict[str, Any]:
    """The training options that let a sample with this ledger reach the model; {} where none is to blame."""
    change: dict[str, Any] = {"max_length": None} if details.truncated_tokens else {}
    if details.exposures == 0 and stage.training.get("dataloader_drop_last"):
        change["dataloader_drop_last"] = False
    if not change and details.exposures and stage.training.get("assistant_only_loss"):
        change["assistant_only_loss"] = False
    return change
