"""Find plugins by entry point and give them their options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from ilp_mlflow.config import describe
from ilp_mlflow.errors import PluginError, suggest

Kind = Literal["diagnostic", "mitigation"]
GROUPS: dict[Kind, str] = {"diagnostic": "ilp_mlflow.diagnostics", "mitigation": "ilp_mlflow.mitigations"}
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
    return sorted((_read(point, kind) for point in entry_points(group=GROUPS[kind])), key=lambda p: (p.name, p.distribution))


def working(kind: Kind) -> list[str]:
    """Names of the plugins of a kind that can be used."""
    return [p.name for p in installed(kind) if p.error is None]


def configured(kind: Kind, wanted: Mapping[str, Mapping[str, Any]] | None) -> dict[str, Any]:
    """Plugin objects by name, in the order `wanted`, with their options; None wants all that work.

    Raises PluginError for an unknown name, a name two distributions claim, a plugin that fails to import, and options
    it does not know or accept.
    """
    plugins = installed(kind)
    if wanted is None:
        wanted = {name: {} for name in working(kind)}
    return {name: _configure(name, kind, plugins, options) for name, options in wanted.items()}


def _configure(name: str, kind: Kind, plugins: list[Plugin], options: Mapping[str, Any]) -> Any:
    found = [p for p in plugins if p.name == name]
    if not found:
        known = [p.name for p in plugins]
        raise PluginError(f"{kind} '{name}' is not installed; {suggest(name, known)}; 'ilp plugins' lists them")
    if len(found) > 1:
        owners = " and ".join(p.distribution for p in found)
        raise PluginError(f"{kind} '{name}' is claimed by {owners}; uninstall one of them")
    (plugin,) = found
    if plugin.cls is None:
        raise PluginError(f"{kind} '{name}' from {plugin.distribution} cannot be used: {plugin.error}")
    for option in options:
        if option not in plugin.options:
            raise PluginError(f"{kind} '{name}' has no option '{option}'; {suggest(option, plugin.options)}")
    try:
        return plugin.cls(**options)
    except ValidationError as error:
        raise PluginError(describe(error, plugin.cls, f"{kind} '{name}'")) from None


def _read(point: EntryPoint, kind: Kind) -> Plugin:
    distribution = point.dist.name if point.dist else "unknown"
    try:
        cls = point.load()
    except Exception as error:  # a plugin may fail to import in any way; it is named, not swallowed
        return Plugin(point.name, kind, distribution, error=f"{type(error).__name__}: {error}")
    if not callable(getattr(cls, METHODS[kind], None)):
        return Plugin(point.name, kind, distribution, error=f"{point.value} has no method '{METHODS[kind]}'")
    fields = cls.model_fields if issubclass(cls, BaseModel) else {}
    defaults = {name: None if f.is_required() else f.get_default(call_default_factory=True) for name, f in fields.items()}
    return Plugin(point.name, kind, distribution, cls, defaults)
