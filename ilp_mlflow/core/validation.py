"""What pydantic refuses, told in one line that a user can act on."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from ilp_mlflow.core.errors import suggest

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def describe_error(
    error: ValidationError,
    model: type[BaseModel],
    where: str,
    overrides: Mapping[str, Any] | None = None,
) -> str:
    """The first problem of a validation error in one line: place, problem, and the value seen.

    `model` is what was validated, `where` names its source, such as the path of a file. A key of
    `overrides` came from the command line instead, and is called a parameter.
    """
    details = _most_telling(error)
    key = ".".join(str(part) for part in details["loc"])
    if key in (overrides or {}):
        place = f"parameter {key}"
    elif key:
        place = f"{where}: {key}"
    else:
        place = where
    return f"{place}: {_problem(details, model)}"


def _most_telling(error: ValidationError) -> ErrorDetails:
    details = error.errors()
    # a misspelt key is also a missing one, which may be listed first; the misspelling helps more
    misspelt = [entry for entry in details if entry["type"] == "extra_forbidden"]
    return [*misspelt, *details][0]


def _problem(details: ErrorDetails, model: type[BaseModel]) -> str:
    location = details["loc"]
    if details["type"] == "extra_forbidden":
        known = _fields_at(model, location[:-1])
        return f"unknown key; {suggest(str(location[-1]), known)}"
    if details["type"] == "model_type":
        known = _fields_at(model, location)
        return f"expected a mapping with some of: {', '.join(known)}"
    if details["type"] == "missing":
        return "missing; add it"
    message = details["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    value = details["input"]
    # a mapping or list would not fit the line
    if value is None or isinstance(value, str | int | float | bool):
        return f"{message} (got {value!r})"
    return message


def _fields_at(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Names of the fields that are known at a place inside a model, as pydantic locates it."""
    models = [model]
    for part in location:
        # a list's index and the like lead to no other model
        models = _models_at(models, part) or models
    fields: list[str] = []
    for candidate in models:
        fields += [name for name in candidate.model_fields if name not in fields]
    return fields


def _models_at(models: Sequence[type[BaseModel]], part: str | int) -> list[type[BaseModel]]:
    """The models one step further down: those that a field of this name can hold."""
    # where a field can hold several models, the next part of the location is the name of one
    chosen = [model for model in models if model.__name__ == part]
    if chosen:
        return chosen
    below: list[type[BaseModel]] = []
    for model in models:
        field = model.model_fields.get(str(part))
        if field:
            below += models_in(field.annotation)
    return below


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The pydantic models that a value of this type can be made of, through unions and lists."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    models: list[type[BaseModel]] = []
    for part in typing.get_args(annotation):
        models += models_in(part)
    return models
