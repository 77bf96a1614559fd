"""Rows that their trainer reads otherwise than they are written: their form, roles and weights."""

from __future__ import annotations

from collections.abc import Sequence

from ilp_mlflow.core.texts import Conversation, Message, Text
from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.training_configs.setup import TrainingSetup
from ilp_mlflow.training.checks.finding import CheckedRow, CheckFinding, row_finding


def check_row_form(rows: Sequence[CheckedRow], setup: TrainingSetup) -> list[CheckFinding]:
    """What the trainer does not take as it stands: the rows themselves, roles, `weight: 0`."""
    return [*_form(rows, setup), *_roles(setup), *_weights(rows, setup)]


def without_weights(sample: Sample) -> Sample:
    """A sample as a trainer reads it that knows no `weight` of turns."""
    prompt, completion = _without_weights(sample.prompt), _without_weights(sample.completion)
    return sample.model_copy(update={"prompt": prompt, "completion": completion})


def _without_weights(text: Text) -> Text:
    if isinstance(text, str):
        return text
    turns = []
    for turn in text.turns:
        fields = turn.as_dict()
        fields.pop("weight", None)
        turns.append(Message(**fields))
    return text.with_turns(tuple(turns))


def _form(rows: Sequence[CheckedRow], setup: TrainingSetup) -> list[CheckFinding]:
    if not setup.form_fault:
        return []
    return [
        CheckFinding(
            kind="form_not_read",
            severity="error",
            sentence=setup.form_fault,
            rows=setup.form_fault_rows,
            share=min(1.0, setup.form_fault_rows / len(rows)),
        )
    ]


def _roles(setup: TrainingSetup) -> list[CheckFinding]:
    if not setup.foreign_roles:
        return []
    named = ", ".join(setup.foreign_roles)
    return [
        CheckFinding(
            kind="roles_as_written",
            severity="warning",
            sentence=f"{setup.trainer} gives the roles {named} to the chat template as they are: "
            "the model learns to answer under other names than those it is asked under, and counts "
            "are of rows with the usual roles",
            change="rename the roles to user and assistant, and from and value to role and content",
        )
    ]


def _weights(rows: Sequence[CheckedRow], setup: TrainingSetup) -> list[CheckFinding]:
    """Rows that take turns out of the loss in a way that the trainer does not read."""
    if setup.reads_weights:
        return []
    faulty = []
    for row in rows:
        turns = _assistant_turns(row.sample)
        if setup.loss_on == "answer":
            turns = turns[-1:]
        if any(turn.weight == 0 for turn in turns):
            faulty.append(row)
    return row_finding(
        "weight_not_read",
        "warning",
        faulty,
        len(rows),
        f"weight 0 takes turns out of the loss, and {setup.trainer} does not read it: they are "
        "trained",
        change="remove these turns or rows, or take a trainer that reads it (ilp run; axolotl with "
        "message_field_training)",
    )


def _assistant_turns(sample: Sample) -> list[Message]:
    if isinstance(sample.prompt, str):
        return []
    assert isinstance(sample.completion, Conversation)
    turns = (*sample.prompt.turns, *sample.completion.turns)
    return [turn for turn in turns if turn.role == "assistant"]
