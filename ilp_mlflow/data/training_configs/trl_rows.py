"""How TRL takes the rows of a data set, which it tells by the columns and the first row."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from ilp_mlflow.core.config import DataConfig
from ilp_mlflow.data.dataset_lists import resolve_listed
from ilp_mlflow.data.formats.choose import names_of
from ilp_mlflow.data.readers import read_records
from ilp_mlflow.data.records import Record
from ilp_mlflow.data.training_configs.setup import TrainingSetup

TEMPLATE_ROLES = ("system", "developer", "user", "assistant", "tool", "ipython")
"""Roles that chat templates know."""
IN_WORDS = {
    "split": "a prompt with its completion",
    "messages": "a list of messages",
    "text": "plain text",
}
CONVERT = "convert the rows before training, or leave this out where your script does"


class TrlForm(NamedTuple):
    """What rows are to TRL."""

    kind: Literal["split", "messages", "text"]
    """A prompt and its completion, one list of messages, or plain text; where TRL reads the row as
    none of them, what it is nearest to."""
    fault: str = ""
    """Why TRL does not train on such rows as they are read here; "" where it does."""
    roles: tuple[str, ...] = ()
    """Roles that TRL leaves as they are written, and that chat templates do not know."""
    faulty_rows: int = 0
    """Rows that have the fault."""


def fit_to_trl(
    setup: TrainingSetup, sources: Sequence[DataConfig]
) -> tuple[TrainingSetup, list[DataConfig]]:
    """A setup of TRL and its rows, with what TRL makes of the columns that the rows have.

    Any other setup is returned as it is. Of a prompt and its completion the completion alone is
    trained, of anything else all, whatever `completion_only_loss` says. Raises DatasetError when
    a row cannot be read.
    """
    if setup.trainer != "TRL" or not setup.read_from_file:
        return setup, list(sources)
    form = _form_of(resolve_listed(sources[0]), setup.text_field)
    fitted = [_with_text_field(source, setup, form) for source in sources]
    is_split = form.kind == "split"
    whole = setup.completion_only is False
    loss_on = setup.loss_on
    if loss_on != "assistant turns":
        loss_on = "answer" if is_split and not whole else "everything"
    ignored = list(setup.ignored)
    if setup.completion_only and not is_split:
        trained = "every token" if loss_on == "everything" else "what the assistant says"
        ignored.append(
            "completion_only_loss does nothing for rows that are not prompt and completion: TRL "
            f"trains {trained}"
        )
    update = {
        "loss_on": loss_on,
        "history_in_loss": not is_split or whole,
        "ignored": tuple(ignored),
        "form_fault": form.fault,
        "form_fault_rows": form.faulty_rows,
        "foreign_roles": form.roles,
    }
    return setup.model_copy(update=update), fitted


def _form_of(source: DataConfig, text_field: str) -> TrlForm:
    """What TRL takes the rows of a data set for."""
    if source.format == "alpaca_prompt":
        return TrlForm("split")
    records = list(itertools.islice(read_records(source), source.limit))
    if source.fields or source.format:
        # whoever says how rows are to be read converts them before the training
        first = records[0].fields if records else {}
        return TrlForm(row_form(names_of(source).row(first)).kind)
    return trl_form(records, text_field)


def trl_form(records: Sequence[Record], text_field: str = "text") -> TrlForm:
    """What TRL takes rows for: all of them for what the first one is."""
    # in a data set, a column that any row has is one of every row, null where it is left out
    columns = dict[str, None]()
    for record in records:
        columns.update(dict.fromkeys(record.fields))
    forms = [row_form({**columns, **record.fields}, text_field) for record in records]
    first = forms[0] if forms else row_form({}, text_field)
    roles = dict.fromkeys(role for form in forms for role in form.roles)
    first = first._replace(roles=tuple(roles))
    if first.fault:
        n_faulty = sum(form.fault == first.fault for form in forms)
        return first._replace(faulty_rows=n_faulty)
    others = [
        (record, form)
        for record, form in zip(records, forms, strict=True)
        if form.fault or form.kind != first.kind
    ]
    if not others:
        return first
    record, form = others[0]
    what = form.fault or "it is of another form"
    fault = (
        f"TRL takes all rows for what the first one is, {IN_WORDS[first.kind]}, and "
        f"{record.where} is not: {what}"
    )
    return first._replace(fault=fault, faulty_rows=len(others))


def row_form(row: Mapping[str, Any], text_field: str = "text") -> TrlForm:
    """What TRL takes rows for whose first one is `row`; it has the columns of all."""
    columns = [name for name, value in row.items() if value is not None]
    if "prompt" in row and "completion" in row:
        if "messages" in columns:
            return TrlForm(
                "split",
                "TRL trains 'prompt' and 'completion' and leaves 'messages' alone, which are read "
                "here; remove the columns that are not meant",
            )
        return TrlForm("split")
    if "prompt" in row:
        return TrlForm(
            "messages" if "messages" in columns else "text",
            "TRL takes rows with a column 'prompt' for prompt and completion, and fails without "
            "'completion'; remove or rename the column 'prompt'",
        )
    turns = row.get("messages")
    if _is_turns(turns, "role"):
        return TrlForm("messages")
    conversations = row.get("conversations")
    if _is_turns(conversations, "from"):
        assert isinstance(conversations, list)
        roles = dict.fromkeys(str(turn.get("from")) for turn in conversations)
        return TrlForm("messages", roles=tuple(r for r in roles if r not in TEMPLATE_ROLES))
    if text_field in columns:
        return TrlForm("text")
    named = ", ".join(columns) or "nothing"
    return TrlForm(
        "split" if "completion" in columns else "messages",
        f"TRL reads 'messages' with roles, 'prompt' and 'completion', or '{text_field}', and the "
        f"rows have {named}; {CONVERT}",
    )


def _is_turns(value: Any, key: str) -> bool:
    """Whether a value is a list of turns of which the first has a key."""
    return (
        isinstance(value, list) and bool(value) and isinstance(value[0], dict) and key in value[0]
    )


def _with_text_field(source: DataConfig, setup: TrainingSetup, form: TrlForm) -> DataConfig:
    """Rows of text with the column that `dataset_text_field` names."""
    if form.kind != "text" or setup.text_field == "text" or form.fault or source.fields:
        return source
    fields = {"text": setup.text_field}
    return source.model_copy(update={"fields": fields})
