"""Values of a trainer's configuration, checked for their types under the trainer's own names."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ilp_mlflow.core.errors import ConfigError
from ilp_mlflow.core.validation import describe_error

K = TypeVar("K", bound="Keys")
NEAR_MISS = 0.82
"""Similarity 0..1 from which an unknown key may have been meant for a known one."""


class Keys(BaseModel):
    """Base of the keys that are read of one trainer; all others are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _as_list(value: Any) -> Any:
    """Names written as one text with commas, as a list."""
    if isinstance(value, str):
        return [name.strip() for name in value.split(",") if name.strip()]
    return value


Count = Annotated[int, BeforeValidator(_no_bool), Field(ge=1)]
"""A whole number above 0."""
Number = Annotated[float, BeforeValidator(_no_bool)]
"""A number."""
Names = Annotated[tuple[str, ...], BeforeValidator(_as_list)]
"""A list of names, or one text with commas."""


def read_keys(model: type[K], fields: Mapping[str, Any], path: Path) -> K:
    """The keys that are read, with the trainer's own defaults. Raises ConfigError for a wrong type.

    A key without a value counts as left out.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise ConfigError(describe_error(error, model, str(path))) from None


def unread(fields: Mapping[str, Any], reasons: Mapping[str, str]) -> tuple[str, ...]:
    """A sentence for every key that is set, may matter for the rows, and is not read."""
    sentences = []
    for name, reason in reasons.items():
        if fields.get(name) not in (None, False, "", [], {}):
            sentences.append(f"{name} is not read: {reason}")
    return tuple(sentences)


def near_misses(
    fields: Mapping[str, Any], read: Collection[str], others: Collection[str]
) -> tuple[str, ...]:
    """A sentence for every key that is none of the trainer's and nearly one of those `read`.

    `others` are keys of the trainer that cannot matter for the rows and look like one that does.
    """
    sentences = []
    for name in fields:
        if name in read or name in others:
            continue
        close = difflib.get_close_matches(name, sorted(read), n=1, cutoff=NEAR_MISS)
        if close:
            sentences.append(f"unknown key '{name}' is not read; did you mean '{close[0]}'?")
    return tuple(sentences)


def local_folder(name: str | None, path: Path) -> str | None:
    """A model's name; its path where there is such a folder, here or beside the file at `path`."""
    if not name:
        return None
    for folder in (Path.cwd(), path.resolve().parent):
        place = folder / Path(name).expanduser()
        if place.is_dir():
            return str(place)
    return name
