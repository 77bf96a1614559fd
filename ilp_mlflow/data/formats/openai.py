"""Lines of a fine-tuning file as OpenAI takes them: `messages` with parts, calls and weights.

Files from before tools have `functions`, and a `function_call` in a turn.
https://platform.openai.com/docs/api-reference/fine-tuning/chat-input
"""

from __future__ import annotations

from typing import Any

from ilp_mlflow.core.errors import DatasetError
from ilp_mlflow.data.formats import trl
from ilp_mlflow.data.formats.names import Names
from ilp_mlflow.data.formats.parts import as_function_tool, take_json

UNSAID = ("parallel_tool_calls", "function_call")
"""Columns that tell OpenAI's server how to decode, and are no part of a text."""
SIGNS = ("functions", *UNSAID)
"""Columns that only such files have."""


def is_openai_turn(turn: Any) -> bool:
    """Whether a turn is written as only OpenAI's files have it."""
    if not isinstance(turn, dict):
        return False
    return isinstance(turn.get("content"), list) or bool(turn.get("function_call"))


def convert(fields: dict[str, Any], where: str, names: Names) -> dict[str, Any]:
    """A row with functions as tools and content as text; the rest as from `trl.convert`.

    Raises DatasetError as that does, and when a row has both functions and tools.
    """
    row = dict(fields)
    functions = take_json(row, "functions", where, names)
    if functions:
        if row.get("tools"):
            raise DatasetError(f"{where}: has both 'functions' and 'tools'; remove one of them")
        if not isinstance(functions, list):
            raise DatasetError(f"{where}: functions must be a list of objects")
        row["tools"] = [as_function_tool(function) for function in functions]
    row["messages"] = take_json(row, "messages", where, names)
    if isinstance(row["messages"], list):
        row["messages"] = [_with_tool_calls(turn) for turn in row["messages"]]
    return trl.convert(row, where, names)


def _with_tool_calls(turn: Any) -> Any:
    """A turn with `tool_calls` in place of a `function_call`, and `tool` as the role of results."""
    if not isinstance(turn, dict):
        return turn
    message = {key: value for key, value in turn.items() if key != "function_call"}
    if turn.get("function_call"):
        message["tool_calls"] = [{"type": "function", "function": turn["function_call"]}]
    if turn.get("role") == "function":
        message["role"] = "tool"
    return message
