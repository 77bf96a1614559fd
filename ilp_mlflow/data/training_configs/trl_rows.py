"""How TRL takes the rows of a data set, which it tells by the columns of the first one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from ilp_mlflow.core.config import DataConfig
from ilp_mlflow.data.dataset_lists import resolve_listed
from ilp_mlflow.data.formats.choose import names_of
from ilp_mlflow.data.readers import read_records
from ilp_mlflow.data.training_configs.setup import TrainingSetup

TEMPLATE_ROLES = ("system", "developer", "user", "assistant", "tool", "ipython")
"""Roles that chat templates know."""
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


def fit_to_trl(
    setup: TrainingSetup, sources: Sequence[DataConfig]
) -> tuple[TrainingSetup, list[DataConfig]]:
    """A setup of TRL and its rows, with what TRL makes of the columns that the rows have.

    Any other setup is returned as it is. Of a prompt and its completion the completion alone is
    trained, of anything else all, whatever `completion_only_loss` says. Raises DatasetError when
    the first row cannot be read.
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
        "foreign_roles": form.roles,
    }
    return setup.model_copy(update=update), fitted


def _form_of(source: DataConfig, text_field: str) -> TrlForm:
    """What TRL takes the rows of a data set for."""
    first = next((record.fields for record in read_records(source)), {})
    if source.format == "alpaca_prompt":
        return TrlForm("split")
    if source.fields or source.format:
        # whoever says how rows are to be read converts them before the training
        return TrlForm(trl_form(names_of(source).row(first)).kind)
    return trl_form(first, text_field)


def trl_form(first: Mapping[str, Any], text_field: str = "text") -> TrlForm:
    """What TRL takes rows for whose first one is `first`."""
    columns = [name for name, value in first.items() if value is not None]
    if "prompt" in first and "completion" in first:
        if "messages" in columns:
            return TrlForm(
                "split",
                "TRL trains 'prompt' and 'completion' and leaves 'messages' alone, which are read "
                "here; remove the columns that are not meant",
            )
        return TrlForm("split")
    if "prompt" in first:
        return TrlForm(
            "messages" if "messages" in columns else "text",
            "TRL takes rows with a column 'prompt' for prompt and completion, and fails without "
            "'completion'; remove or rename the column 'prompt'",
        )
    turns = first.get("messages")
    if _is_turns(turns, "role"):
        return TrlForm("messages")
    conversations = first.get("conversations")
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
