"""Check of JSON: equal as data, or fitting a schema."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

FENCED = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)
NO_JSON = object()
"""In place of what a text that is no JSON stands for."""


def json_data(
    completions: Sequence[str],
    answer: Sequence[str],
    schema: Mapping[str, Any] | None = None,
    **columns: Any,
) -> list[float | None]:
    """1 where what is said is the same data as the row's answer, whatever its order and spaces.

    With `schema`, a JSON schema, 1 where it fits that, whatever the row's answer is. None for a
    row whose answer is no JSON. Raises ImportError for a schema without `jsonschema`.
    """
    values: list[float | None] = []
    for said, right in zip(completions, answer, strict=True):
        value, wanted = _parse(said), _parse(right)
        if schema is not None:
            values.append(float(value is not NO_JSON and _fits(value, schema)))
        elif wanted is NO_JSON:
            values.append(None)
        else:
            values.append(float(value is not NO_JSON and _same(value, wanted)))
    return values


def _parse(text: str) -> Any:
    """The data that a text is, or has between fences; NO_JSON for anything else."""
    fenced = FENCED.search(text)
    try:
        return json.loads(fenced[1] if fenced else text)
    # too deep, or a number of thousands of digits
    except (ValueError, RecursionError):
        return NO_JSON


def _same(value: Any, wanted: Any) -> bool:
    """Whether two data are the same: true is no 1, as it is in Python."""
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    if isinstance(value, dict) and isinstance(wanted, dict):
        same_keys = value.keys() == wanted.keys()
        return same_keys and all(_same(value[key], wanted[key]) for key in value)
    if isinstance(value, list) and isinstance(wanted, list):
        pairs = zip(value, wanted, strict=False)
        return len(value) == len(wanted) and all(_same(one, other) for one, other in pairs)
    return bool(value == wanted)


def _fits(value: Any, schema: Mapping[str, Any]) -> bool:
    from jsonschema import Draft202012Validator

    return bool(Draft202012Validator(schema).is_valid(value))
