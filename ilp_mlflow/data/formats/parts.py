"""What several formats have in common: texts, JSON in a column, turns, tools."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from ilp_mlflow.core.errors import DatasetError
from ilp_mlflow.data.file_kinds import DuplicateKeyError, parse_json
from ilp_mlflow.data.formats.names import Names, is_empty

RENDERED = ("prompt", "completion", "messages", "text", "tools", "chat_template_kwargs")
"""Fields of which a text for the model is made."""
LEFT_OUT = ("tools", "history", "chat_template_kwargs")
"""Fields without which a row is still one; a column may have such a name and mean something else.
"""
LOSS_KEYS = ("loss", "loss_weight")
"""What ms-swift and LLaMA-Factory call the `weight` of a turn."""
TRAINING_FLAGS = ("train", "training")
"""Where axolotl's rows say with true or false whether a turn is trained."""
MEDIA = ("images", "image", "videos", "video", "audios", "audio")
"""Columns of what is no text and would be part of a prompt."""


def take_text(row: dict[str, Any], name: str, where: str, names: Names) -> str:
    """The field `name`, taken out of the row; "" where it is left out. Raises DatasetError."""
    value = row.pop(name, None)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DatasetError(
            f"{where}: {names.called(name)} must be text, got {type(value).__name__}; write it as "
            "text, or remove the row"
        )
    return value


def take_json(row: dict[str, Any], name: str, where: str, names: Names) -> Any:
    """The field `name`, taken out of the row: a value, or JSON where a column holds text only.

    None where there is nothing in it. Raises DatasetError for text that is no JSON.
    """
    value = row.pop(name, None)
    if isinstance(value, str):
        if not value.strip():
            return None
        try:
            value = parse_json(value)
        except (json.JSONDecodeError, DuplicateKeyError) as error:
            hint = f", or leave it out with --fields {name}=" if name in LEFT_OUT else ""
            raise DatasetError(
                f"{where}: {names.called(name)} is not valid JSON ({error}); repair it{hint}"
            ) from None
    return None if is_empty(value) else value


def take_tools(row: dict[str, Any], where: str, names: Names) -> list[dict[str, Any]] | None:
    """The `tools` of a row, taken out of it; None where it has none. Raises DatasetError."""
    tools = take_json(row, "tools", where, names)
    if tools is None:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise DatasetError(
            f"{where}: {names.called('tools')} must be a list of objects, or that as JSON"
        )
    return tools


def as_function_tool(tool: dict[str, Any]) -> dict[str, Any]:
    """A bare description of a function as chat templates take it; any other tool as it is."""
    if "function" in tool or "name" not in tool:
        return tool
    return {"type": "function", "function": tool}


def plain_turns(turns: Any, name: str, where: str) -> Any:
    """Turns with text as content and a `weight` where another key says what is trained.

    What is no list of turns stays as it is. Raises DatasetError for a part of content that is no
    text, such as an image, and for a weight other than 0 and 1.
    """
    if not isinstance(turns, list):
        return turns
    plain = []
    for number, turn in enumerate(turns):
        place = f"{where}: {name}[{number}]"
        plain.append(_plain_turn(turn, place) if isinstance(turn, dict) else turn)
    return plain


def _plain_turn(turn: dict[str, Any], where: str) -> dict[str, Any]:
    plain = dict(turn)
    if isinstance(turn.get("content"), list):
        plain["content"] = _joined(turn["content"], where)
    if turn.get("tool_calls"):
        # beside calls, content may be left out as well as null
        plain.setdefault("content", None)
    if plain.get("weight") is None:
        # a table has null where a turn has none
        plain.pop("weight", None)
    for key, flag in _flags(turn, where).items():
        del plain[key]
        if plain.setdefault("weight", flag) != flag:
            raise DatasetError(
                f"{where}: weight {json.dumps(plain['weight'])} and {key} {json.dumps(flag)} "
                "disagree on whether the turn is trained; keep one of them"
            )
    weight = plain.get("weight")
    # a part of a weight, or text, would count for nothing without a word
    if weight is not None and (isinstance(weight, str) or weight not in (0, 1)):
        raise DatasetError(
            f"{where}: weight {json.dumps(weight)} is neither 0 nor 1: a turn is trained or it is "
            "not; write 0, 1 or no weight"
        )
    if weight is not None:
        plain["weight"] = int(weight)
    return plain


def _flags(turn: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The keys other than `weight` by which a turn says whether it is trained, with their values.

    Raises DatasetError for true and false as text.
    """
    flags = {key: turn[key] for key in LOSS_KEYS if turn.get(key) is not None}
    for key in TRAINING_FLAGS:
        flag = turn.get(key)
        if isinstance(flag, str) and flag.strip().lower() in ("true", "false"):
            raise DatasetError(
                f"{where}: {key} is the text {json.dumps(flag)}, which trainers take for true; "
                "write true or false without quotes"
            )
        # other values are no answer to whether
        if isinstance(flag, int) and flag in (0, 1):
            flags[key] = flag
    return flags


def _joined(parts: list[Any], where: str) -> str:
    texts = []
    for part in parts:
        text = _text_of(part)
        if text is not None:
            texts.append(text)
        else:
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise DatasetError(
                f"{where}: content has a part of type '{kind}'; only text is read, remove the row"
            )
    return "".join(texts)


def _text_of(part: Any) -> str | None:
    """The text of a part of content; None where it is none."""
    if isinstance(part, dict):
        # OpenAI's key, or that of LLaMA-Factory
        part = part.get("text", part.get("value") if part.get("type") == "text" else None)
    return part if isinstance(part, str) else None


def refuse_media(row: Mapping[str, Any], where: str, names: Names) -> None:
    """Raise DatasetError where a row has images, videos or audio."""
    for name in MEDIA:
        if not is_empty(row.get(name)):
            raise DatasetError(
                f"{where}: {names.called(name)} is not empty; only text is read, remove the row "
                "or the column"
            )


def check_finite(row: Mapping[str, Any], where: str) -> None:
    """Raise DatasetError where NaN or infinity, which JSON has not, would become text."""
    for name in RENDERED:
        if not _is_finite(row.get(name)):
            raise DatasetError(
                f"{where}: {name} holds NaN or infinity, which are no JSON; write null or a number"
            )


def _is_finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(_is_finite(part) for part in value.values())
    if isinstance(value, list):
        return all(_is_finite(part) for part in value)
    return True
