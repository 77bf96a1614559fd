"""Rows as TRL takes them, which are also ours: `messages`, or `prompt` and `completion`, or `text`.

https://huggingface.co/docs/trl/dataset_formats
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ilp_mlflow.core.errors import DatasetError
from ilp_mlflow.data.formats.names import Names
from ilp_mlflow.data.formats.parts import plain_turns, take_json, take_tools

CONVERSATIONS = ("messages", "prompt", "completion")
"""Fields that can hold turns."""


def convert(fields: dict[str, Any], where: str, names: Names) -> dict[str, Any]:
    """A row with its turns under the keys `role` and `content`, and columns of JSON parsed.

    Raises DatasetError for content that is no text, for tools that are none, where a column that is
    named is empty, and where `messages`
    and a `prompt` or `completion` beside it disagree.
    """
    row = dict(fields)
    if isinstance(row.get("messages"), str):
        row["messages"] = take_json(row, "messages", where, names)
    for name in CONVERSATIONS:
        if names.columns.get(name) and row.get(name) is None:
            raise DatasetError(
                f"{where}: {names.called(name)} is empty or missing; fill it in or remove the row"
            )
        if isinstance(row.get(name), list):
            turns = [_renamed_turn(turn, names) for turn in row[name]]
            row[name] = plain_turns(turns, names.called(name), where)
    tools = take_tools(row, where, names)
    if tools:
        row["tools"] = tools
    variables = take_json(row, "chat_template_kwargs", where, names)
    if variables:
        row["chat_template_kwargs"] = _checked_variables(variables, where, names)
    # whoever names the column of messages has chosen it
    if "messages" not in names.columns and isinstance(row.get("messages"), list):
        check_agreement(row, where)
    return row


def _renamed_turn(turn: Any, names: Names) -> Any:
    """A turn with `role` and `content` in place of `from` and `value`, as TRL renames them."""
    if not isinstance(turn, dict):
        return turn
    if names.of_turns():
        turn = names.turn(turn)
    renamed = {}
    for key, value in turn.items():
        renamed[{"from": "role", "value": "content"}.get(key, key)] = value
    role = renamed.get("role")
    if isinstance(role, str):
        renamed["role"] = names.roles.get(role, role)
    return renamed


def _checked_variables(variables: Any, where: str, names: Names) -> dict[str, Any]:
    if not isinstance(variables, dict):
        raise DatasetError(
            f"{where}: {names.called('chat_template_kwargs')} must be an object, "
            f"got {type(variables).__name__}"
        )
    return variables


def check_agreement(row: Mapping[str, Any], where: str) -> None:
    """Raise DatasetError where a `prompt` or `completion` is not what `messages` beside it say."""
    turns = [turn for turn in row["messages"] if isinstance(turn, dict)]
    asked = [turn.get("content") for turn in turns if turn.get("role") != "assistant"]
    answered = [turn.get("content") for turn in turns if turn.get("role") == "assistant"]
    prompt, completion = row.get("prompt"), row.get("completion")
    # a prompt may be any of the questions; the completion is what comes last
    if isinstance(prompt, str) and prompt.strip() and not _is_among(prompt, asked):
        _refuse("prompt", "of no user or system turn", where)
    if (
        isinstance(completion, str)
        and completion.strip()
        and not _is_among(completion, answered[-1:])
    ):
        _refuse("completion", "not that of the last assistant turn", where)
    if isinstance(prompt, list) and isinstance(completion, list) and prompt + completion != turns:
        _refuse("prompt and completion", "not that of the turns", where)


def _is_among(text: str, contents: list[Any]) -> bool:
    """Whether a text is one of several contents, blanks around it aside; a blank text always is."""
    if not text.strip():
        return True
    return any(isinstance(other, str) and other.strip() == text.strip() for other in contents)


def _refuse(name: str, why: str, where: str) -> None:
    raise DatasetError(
        f"{where}: messages and {name} disagree (its text is {why}); remove one of them, or choose "
        "with --fields messages=messages or --fields prompt=prompt,completion=completion"
    )
