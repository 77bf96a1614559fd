"""Find plugins by entry point and give them their options."""

from __future__ import annotations

import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from ilp_mlflow.core.errors import PluginError, suggest
from ilp_mlflow.core.validation import describe_error, models_in

Kind = Literal["diagnostic", "mitigation"]
GROUPS: dict[Kind, str] = {
    "diagnostic": "ilp_mlflow.diagnostics",
    "mitigation": "ilp_mlflow.mitigations",
}
REQUIRED = object()
"""In place of a default where there is none."""
METHODS: dict[Kind, str] = {"diagnostic": "examine", "mitigation": "plan"}


@dataclass(frozen=True)
class Plugin:
    """One installed plugin; `error` says why it cannot be used."""

    name: str
    kind: Kind
    distribution: str
    cls: type[Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """Option names with their defaults."""
    error: str | None = None


def installed(kind: Kind) -> list[Plugin]:
    """All plugins of a kind, sorted by name; one that fails to import is listed with its error."""
    return sorted(
        (_read(point, kind) for point in entry_points(group=GROUPS[kind])),
        key=lambda p: (p.name, p.distribution),
    )


def usable(kind: Kind) -> list[str]:
    """Names of the plugins of a kind that can be used."""
    return [p.name for p in installed(kind) if p.error is None]


def configure(kind: Kind, wanted: Mapping[str, Mapping[str, Any]] | None) -> dict[str, Any]:
    """Plugin objects by name, in the order `wanted`, with their options; None wants all that work.

    Raises PluginError for an unknown name, a name two distributions claim, a plugin that fails to import, and options
    it does not know or accept.
    """
    plugins = installed(kind)
    if wanted is None:
        wanted = {name: {} for name in usable(kind)}
    return {name: _configure(name, kind, plugins, options) for name, options in wanted.items()}


def format_listing(plugins: Sequence[Plugin]) -> str:
    """Plugins by kind with what they do and their options, then those that cannot be used and why: text that fits 80 columns."""
    lines = list[str]()
    for kind in GROUPS:
        good = [(p, p.cls) for p in plugins if p.kind == kind and p.cls is not None]
        lines += ["", f"{kind}s"] if good else []
        for plugin, cls in good:
            does = (cls.__doc__ or "").split("\n\n")[0]
            lines += ["", *_wrapped(f"{plugin.name} ({plugin.distribution}): {does}", 2)]
            lines += [line for text in _lines(cls) for line in _wrapped(text, 6)]
    bad = [p for p in plugins if p.cls is None]
    lines += ["", "failed", ""] if bad else []
    for plugin in bad:
        lines += _wrapped(f"{plugin.name} ({plugin.distribution}): {plugin.error}", 2)
    return "\n".join(lines[1:]) or "no plugins installed"


@dataclass(frozen=True)
class Option:
    """An option of a plugin, or a key of an experiment's file."""

    name: str
    kind: str
    """Its type as one writes it."""
    default: Any
    """REQUIRED where it must be given."""
    meaning: str
    """The text under it in the code."""
    within: tuple[type[BaseModel], ...]
    """The models its value can be made of."""


def options(cls: type[Any]) -> list[Option]:
    """The options of a class, in order."""
    return [
        Option(
            name,
            _written(one.annotation),
            REQUIRED if one.is_required() else one.get_default(call_default_factory=True),
            one.description or "",
            tuple(models_in(one.annotation)),
        )
        for name, one in (cls.model_fields.items() if issubclass(cls, BaseModel) else ())
    ]


def _lines(cls: type[Any], prefix: str = "") -> Iterator[str]:
    """Name, type, default and meaning of every option; those of a value that is the one kind of an option follow it."""
    for option in options(cls):
        default = "" if option.default is REQUIRED else f" = {option.default!r}"
        yield f"{prefix}{option.name}: {option.kind}{default}" + (
            f" - {option.meaning}" if option.meaning else ""
        )
        if not prefix and len(option.within) == 1:
            yield from _lines(option.within[0], f"{option.name}.")


def _written(kind: Any) -> str:
    """A type as one writes it, without modules and bounds."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _written(parts[0])
    if origin is Literal:
        return " | ".join(map(repr, parts))
    if not parts:
        return (
            "None"
            if kind is type(None)
            else "..."
            if kind is ...
            else str(getattr(kind, "__name__", kind))
        )
    names = [_written(part) for part in parts]
    return (
        " | ".join(names)
        if origin in (typing.Union, types.UnionType)
        else f"{origin.__name__}[{', '.join(names)}]"
    )


def _wrapped(text: str, indent: int) -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()),
        80,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + 4),
    )


def _configure(name: str, kind: Kind, plugins: list[Plugin], options: Mapping[str, Any]) -> Any:
    found = [p for p in plugins if p.name == name]
    if not found:
        known = [p.name for p in plugins]
        raise PluginError(
            f"{kind} '{name}' is not installed; {suggest(name, known)}; 'ilp plugins' lists them"
        )
    if len(found) > 1:
        owners = " and ".join(p.distribution for p in found)
        raise PluginError(f"{kind} '{name}' is claimed by {owners}; uninstall one of them")
    (plugin,) = found
    if plugin.cls is None:
        raise PluginError(
            f"{kind} '{name}' from {plugin.distribution} cannot be used: {plugin.error}"
        )
    for option in options:
        if option not in plugin.options:
            raise PluginError(
                f"{kind} '{name}' has no option '{option}'; {suggest(option, plugin.options)}"
            )
    try:
        return plugin.cls(**options)
    except ValidationError as error:
        raise PluginError(describe_error(error, plugin.cls, f"{kind} '{name}'")) from None


def _read(point: EntryPoint, kind: Kind) -> Plugin:
    distribution = point.dist.name if point.dist else "unknown"
    try:
        cls = point.load()
    except Exception as error:  # a plugin may fail to import in any way; it is named, not swallowed
        return Plugin(point.name, kind, distribution, error=f"{type(error).__name__}: {error}")
    if not (isinstance(cls, type) and callable(getattr(cls, METHODS[kind], None))):
        return Plugin(
            point.name,
            kind,
            distribution,
            error=f"{point.value} is no class with a method '{METHODS[kind]}'",
        )
    fields = cls.model_fields if issubclass(cls, BaseModel) else {}
    defaults = {
        name: None if f.is_required() else f.get_default(call_default_factory=True)
        for name, f in fields.items()
    }
    return Plugin(point.name, kind, distribution, cls, defaults)
