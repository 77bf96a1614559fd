"""Conversations as ShareGPT has them: `conversations` of turns with `from` and `value`.

Roles, the columns `system` and `tools`, and turns that are calls or observations are those of
LLaMA-Factory (data/README.md there); `role` and `content` in place of `from` and `value` are
axolotl's `type: chat_template`.
"""

from __future__ import annotations

import json
from typing import Any

from ilp_mlflow.core.errors import DatasetError
from ilp_mlflow.data.file_kinds import DuplicateKeyError, parse_json
from ilp_mlflow.data.formats.names import Names
from ilp_mlflow.data.formats.parts import (
    as_function_tool,
    plain_turns,
    take_json,
    take_text,
    take_tools,
)

COLUMN = "conversations"
ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "system": "system",
    "developer": "developer",
    "tool": "tool",
    "observation": "tool",
    "function_call": "function_call",
}
"""Roles by what such rows call them; a `function_call` is an assistant turn that is a call."""
CALL = "function_call"


def convert(fields: dict[str, Any], where: str, names: Names) -> dict[str, Any]:
    """A row as `messages`.

    Raises DatasetError for turns that are none, have a role that is not known or content that is no
    text, for a call that is none, and for a system prompt that is given twice, differently.
    """
    row = dict(fields)
    name = "messages" if "messages" in names.columns or COLUMN not in row else COLUMN
    turns = take_json(row, name, where, names)
    row.pop("messages", None)
    place = f"{where}: {names.called(name)}"
    if not isinstance(turns, list) or not turns:
        raise DatasetError(f"{place} must be a list of turns with something in it")
    messages = []
    for number, turn in enumerate(turns):
        messages.append(_message(turn, f"{place}[{number}]", names))
    # numbered as in the row, so before a turn is put in front
    messages = plain_turns(messages, names.called(name), where)
    system = take_text(row, "system", where, names)
    row["messages"] = _with_system(messages, system, where, names)
    tools = take_tools(row, where, names)
    if tools:
        row["tools"] = [as_function_tool(tool) for tool in tools]
    return row


def _message(turn: Any, where: str, names: Names) -> dict[str, Any]:
    """One turn with `role` and `content`; whatever else it has stays."""
    if not isinstance(turn, dict):
        raise DatasetError(f"{where} must be an object, got {type(turn).__name__}")
    message = names.turn(turn)
    if "role" not in names.columns and "role" not in message:
        message["role"] = message.pop("from", None)
    if "content" not in names.columns and "content" not in message:
        message["content"] = message.pop("value", None)
    role = _role(message.get("role"), where, names)
    if role != CALL:
        return {**message, "role": role}
    calls = _calls(message.get("content"), where)
    return {**message, "role": "assistant", "content": None, "tool_calls": calls}


def _role(written: Any, where: str, names: Names) -> str:
    roles = {**ROLES, **names.roles}
    if written not in roles:
        raise DatasetError(
            f"{where}: role {written!r} is not known; known are {', '.join(roles)}; say what it is "
            "with 'roles' in the data of an experiment"
        )
    role = roles[written]
    return {"observation": "tool"}.get(role, role)


def _calls(content: Any, where: str) -> list[dict[str, Any]]:
    """The calls that the content of a turn is as JSON: one, or a list."""
    try:
        calls = parse_json(content) if isinstance(content, str) else content
    except (json.JSONDecodeError, DuplicateKeyError):
        calls = None
    if isinstance(calls, dict):
        calls = [calls]
    if not isinstance(calls, list) or not calls or not all(_is_call(call) for call in calls):
        raise DatasetError(
            f'{where}: must be a call as JSON, {{"name": ..., "arguments": {{...}}}}, or a list '
            "of calls"
        )
    return [{"type": "function", "function": call} for call in calls]


def _is_call(call: Any) -> bool:
    return isinstance(call, dict) and isinstance(call.get("name"), str) and "arguments" in call


def _with_system(
    messages: list[dict[str, Any]], system: str, where: str, names: Names
) -> list[dict[str, Any]]:
    """The turns with the system prompt of the row's own column in front, if it has one."""
    if not system.strip():
        return messages
    if messages[0]["role"] != "system":
        return [{"role": "system", "content": system}, *messages]
    if messages[0]["content"] != system:
        raise DatasetError(
            f"{where}: {names.called('system')} is another text than the system turn; remove one, "
            "or leave the column out with --fields system="
        )
    return messages
