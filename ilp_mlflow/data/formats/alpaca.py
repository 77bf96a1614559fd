"""Rows with an instruction, an input and an output, as chat models are trained on them.

The turns are those that LLaMA-Factory makes (data/README.md and data/converter.py there): `system`,
the pairs of `history`, a user turn of instruction and input with a line feed between, the output.
"""

from __future__ import annotations

from typing import Any

from ilp_mlflow.core.errors import DatasetError
from ilp_mlflow.data.formats.names import Names
from ilp_mlflow.data.formats.parts import as_function_tool, take_json, take_text, take_tools


def convert(fields: dict[str, Any], where: str, names: Names) -> dict[str, Any]:
    """A row as `messages`.

    Raises DatasetError when instruction and input are empty, the output is, or one is no text.
    """
    row = dict(fields)
    messages = []
    system = take_text(row, "system", where, names)
    if system:
        messages.append({"role": "system", "content": system})
    for question, answer in _take_history(row, where, names):
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer})
    instruction = take_text(row, "instruction", where, names)
    added = take_text(row, "input", where, names)
    question = "\n".join(part for part in (instruction, added) if part)
    messages.append({"role": "user", "content": require(question, "instruction", where, names)})
    output = take_text(row, "output", where, names)
    messages.append({"role": "assistant", "content": require(output, "output", where, names)})
    row["messages"] = messages
    tools = take_tools(row, where, names)
    if tools:
        row["tools"] = [as_function_tool(tool) for tool in tools]
    return row


def require(text: str, name: str, where: str, names: Names) -> str:
    """The text of a field. Raises DatasetError when it is blank."""
    if not text.strip():
        raise DatasetError(
            f"{where}: {names.called(name)} is empty or missing; fill it in or remove the row"
        )
    return text


def _take_history(row: dict[str, Any], where: str, names: Names) -> list[tuple[str, str]]:
    """Earlier questions with their answers, taken out of the row."""
    history = take_json(row, "history", where, names) or []
    pairs = []
    for pair in history if isinstance(history, list) else [history]:
        is_pair = isinstance(pair, list | tuple) and len(pair) == 2
        if not is_pair or not all(isinstance(text, str) for text in pair):
            raise DatasetError(
                f"{where}: {names.called('history')} must be a list of [question, answer]"
            )
        pairs.append((pair[0], pair[1]))
    return pairs
