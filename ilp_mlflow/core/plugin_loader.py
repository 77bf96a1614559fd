"""Plugins, found by entry point and given their options."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from ilp_mlflow.core.errors import PluginError, suggest
from ilp_mlflow.core.terminal.text import wrap
from ilp_mlflow.core.validation import describe_error, models_in

Kind = Literal["verdict", "diagnostic", "mitigation"]
GROUPS: dict[Kind, str] = {
    "verdict": "ilp_mlflow.verdicts",
    "diagnostic": "ilp_mlflow.diagnostics",
    "mitigation": "ilp_mlflow.mitigations",
}
"""Entry-point group by kind of plugin."""
METHODS: dict[Kind, str] = {"verdict": "judge", "diagnostic": "examine", "mitigation": "plan"}
"""The method that a plugin must have, by kind."""
REQUIRED = object()
"""In place of the default of an option that has none."""


@dataclass(frozen=True)
class Plugin:
    """One installed plugin."""

    name: str
    """Name of its entry point."""
    kind: Kind
    """Rule of verdicts, diagnostic or mitigation."""
    distribution: str
    """The distribution that installed it."""
    cls: type[Any] | None = None
    """Its class; None where it cannot be used."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Option names with their defaults."""
    error: str | None = None
    """Why it cannot be used, or None."""


@dataclass(frozen=True)
class Option:
    """An option of a plugin, or a key of an experiment's file."""

    name: str
    """Its name."""
    kind: str
    """Its type as one writes it."""
    default: Any
    """REQUIRED where it must be given."""
    meaning: str
    """The docstring below it in the code."""
    within: tuple[type[BaseModel], ...]
    """The models its value can be made of."""


def installed(kind: Kind) -> list[Plugin]:
    """All plugins of a kind, sorted by name; one that fails to import is listed with its error."""
    plugins = [_read(point, kind) for point in entry_points(group=GROUPS[kind])]
    return sorted(plugins, key=lambda plugin: (plugin.name, plugin.distribution))


def usable(kind: Kind) -> list[str]:
    """Names of the plugins of a kind that can be used."""
    return [plugin.name for plugin in installed(kind) if plugin.error is None]


def configure(
    kind: Kind, options_by_name: Mapping[str, Mapping[str, Any]] | None
) -> dict[str, Any]:
    """Plugin objects by name, made with their options, in the order of `options_by_name`.

    None stands for all plugins that can be used, with default options.

    Raises PluginError for a name that is unknown or claimed by two distributions, for a plugin that
    fails to import, and for options it does not know or accept.
    """
    plugins = installed(kind)
    if options_by_name is None:
        options_by_name = {name: {} for name in usable(kind)}
    objects = {}
    for name, option_values in options_by_name.items():
        objects[name] = _make(_find(name, kind, plugins), option_values)
    return objects


def options(cls: type[Any]) -> list[Option]:
    """The options of a class in order; none where it is no pydantic model."""
    if not issubclass(cls, BaseModel):
        return []
    listed = []
    for name, model_field in cls.model_fields.items():
        default = REQUIRED
        if not model_field.is_required():
            default = model_field.get_default(call_default_factory=True)
        option = Option(
            name=name,
            kind=_type_text(model_field.annotation),
            default=default,
            # pydantic takes the docstring below a field for its description
            meaning=model_field.description or "",
            within=tuple(models_in(model_field.annotation)),
        )
        listed.append(option)
    return listed


def format_listing(plugins: Sequence[Plugin]) -> str:
    """Plugins by kind with what they do and their options, as text that fits 80 columns.

    Those that cannot be used follow, with the reason.
    """
    lines: list[str] = []
    for kind in GROUPS:
        entries = [_describe(p, p.cls) for p in plugins if p.kind == kind and p.cls is not None]
        if entries:
            lines += ["", f"{kind}s"]
        for entry in entries:
            lines += ["", *entry]
    failed = [plugin for plugin in plugins if plugin.cls is None]
    if failed:
        lines += ["", "failed", ""]
    for plugin in failed:
        lines += _wrap(f"{plugin.name} ({plugin.distribution}): {plugin.error}", 2)
    # the first line is the blank one that every section begins with
    return "\n".join(lines[1:]) or "no plugins installed"


def _describe(plugin: Plugin, cls: type[Any]) -> list[str]:
    """What a plugin does, and its options, as lines."""
    summary = (cls.__doc__ or "").split("\n\n")[0]
    lines = _wrap(f"{plugin.name} ({plugin.distribution}): {summary}", 2)
    for option in options(cls):
        lines += _wrap(_option_text(option), 6)
        # options of an option are shown where it is plain which model it is made of
        if len(option.within) == 1:
            for part in options(option.within[0]):
                lines += _wrap(f"{option.name}.{_option_text(part)}", 6)
    return lines


def _option_text(option: Option) -> str:
    """Such as `share: float = 0.5 - How much.`."""
    text = f"{option.name}: {option.kind}"
    if option.default is not REQUIRED:
        text += f" = {option.default!r}"
    if option.meaning:
        text += f" - {option.meaning}"
    return text


def _wrap(text: str, indent: int) -> list[str]:
    # docstrings are broken into lines of the code, not of the terminal
    return wrap(" ".join(text.split()), indent, hang=4)


def _type_text(kind: Any) -> str:
    """A type as one writes it, without modules and bounds."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _type_text(parts[0])
    if origin is Literal:
        return " | ".join(map(repr, parts))
    if kind is type(None):
        return "None"
    if kind is ...:
        return "..."
    if not parts:
        return str(getattr(kind, "__name__", kind))
    names = [_type_text(part) for part in parts]
    if origin in (typing.Union, types.UnionType):
        return " | ".join(names)
    return f"{origin.__name__}[{', '.join(names)}]"


def _find(name: str, kind: Kind, plugins: Sequence[Plugin]) -> Plugin:
    """The one plugin of a name. Raises PluginError where there is none, or more than one."""
    matches = [plugin for plugin in plugins if plugin.name == name]
    if not matches:
        known = [plugin.name for plugin in plugins]
        raise PluginError(
            f"{kind} '{name}' is not installed; {suggest(name, known)}; 'ilp plugins' lists them"
        )
    if len(matches) > 1:
        owners = " and ".join(plugin.distribution for plugin in matches)
        raise PluginError(f"{kind} '{name}' is claimed by {owners}; uninstall one of them")
    return matches[0]


def _make(plugin: Plugin, option_values: Mapping[str, Any]) -> Any:
    """The plugin's object. Raises PluginError where it, or one of its options, cannot be used."""
    label = f"{plugin.kind} '{plugin.name}'"
    if plugin.cls is None:
        raise PluginError(f"{label} from {plugin.distribution} cannot be used: {plugin.error}")
    for name in option_values:
        if name not in plugin.options:
            raise PluginError(f"{label} has no option '{name}'; {suggest(name, plugin.options)}")
    try:
        return plugin.cls(**option_values)
    except ValidationError as error:
        raise PluginError(describe_error(error, plugin.cls, label)) from None


def _read(point: EntryPoint, kind: Kind) -> Plugin:
    """The plugin behind an entry point, imported, or with the error that this gave."""
    distribution = point.dist.name if point.dist else "unknown"
    try:
        cls = point.load()
    # a plugin may fail to import in any way: it is listed with its error, not swallowed
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        return Plugin(name=point.name, kind=kind, distribution=distribution, error=reason)
    method = METHODS[kind]
    # a class without our base is a plugin, too, if it has the method
    if not (isinstance(cls, type) and callable(getattr(cls, method, None))):
        reason = f"{point.value} is no class with a method '{method}'"
        return Plugin(name=point.name, kind=kind, distribution=distribution, error=reason)
    defaults = {}
    for option in options(cls):
        defaults[option.name] = None if option.default is REQUIRED else option.default
    return Plugin(
        name=point.name,
        kind=kind,
        distribution=distribution,
        cls=cls,
        options=defaults,
    )
