"""Write the reference in configuration.md from the types. `make docs` runs it.

The meanings are the docstrings, which `ilp plugins` shows too.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ilp_mlflow.core import plugin_loader
from ilp_mlflow.core.config import Experiment
from ilp_mlflow.core.validation import models_in

PAGE = Path(__file__).with_suffix(".md")
MARK = "<!-- below: made by `make docs` -->\n"
OURS = "ilp-mlflow", "ilp-mitigations"
BOUNDS = {
    "ge": "≥ {}",
    "gt": "> {}",
    "le": "≤ {}",
    "lt": "< {}",
    "min_length": "at least {}",
    "pattern": "matches `{}`",
}


def page(text: str) -> str:
    """The page with all that is below the mark made anew."""
    return text.partition(MARK)[0] + MARK + "\n".join(_reference())


def _reference() -> Iterator[str]:
    yield from _sections([Experiment])
    plugins = [
        p
        for kind in plugin_loader.GROUPS
        for p in plugin_loader.installed(kind)
        if p.distribution in OURS and p.cls
    ]
    sources = list[type[BaseModel]]()
    for kind in plugin_loader.GROUPS:
        yield from ("", f"## {kind.capitalize()}s")
        for plugin in plugins:
            if plugin.kind == kind and plugin.cls:
                yield from ("", f"### `{plugin.name}`", "", _first(plugin.cls), *_table(plugin.cls))
                sources += [
                    m
                    for field in plugin.cls.model_fields.values()
                    for m in models_in(field.annotation)
                ]
    yield from ("", "## Sources of data", "", "A source is told by the key that only it has.")
    yield from _sections(sources)


def _sections(found: list[type[BaseModel]]) -> Iterator[str]:
    """A section for each of the models and for all that they hold, each once."""
    seen = set[type[BaseModel]]()
    while found:
        cls, *found = found
        if cls not in seen:
            seen.add(cls)
            yield from ("", f"### {_title(cls)}", "", _first(cls), *_table(cls))
            found += [m for field in cls.model_fields.values() for m in models_in(field.annotation)]


def _table(cls: type[Any]) -> Iterator[str]:
    rows = plugin_loader.options(cls)
    if not rows:
        return
    yield from ("", "| key | type | default | meaning |", "|---|---|---|---|")
    for option in rows:
        kind = re.sub(r"tuple\[(.+), \.\.\.\]", r"list of \1", option.kind.replace(" | ", " or "))
        for model in option.within:
            kind = kind.replace(
                model.__name__, f"[{_title(model).lower()}](#{_title(model).lower()})"
            )
        limits = [text for m in cls.model_fields[option.name].metadata for text in _bounds(m)]
        meaning = " ".join(option.meaning.split())
        cells = [f"`{option.name}`", ", ".join([kind, *limits]), _default(option.default), meaning]
        yield f"| {' | '.join(cells)} |"


def _bounds(limit: Any) -> list[str]:
    return [
        text.format(getattr(limit, name))
        for name, text in BOUNDS.items()
        if getattr(limit, name, None) is not None
    ]


def _default(value: Any) -> str:
    if value is plugin_loader.REQUIRED:
        return "**required**"
    if isinstance(value, BaseModel):
        return "see there"
    return f"`{json.dumps(value)}`"


def _title(cls: type[Any]) -> str:
    return cls.__name__.removesuffix("Config")


def _first(cls: type[Any]) -> str:
    """The first paragraph of a class's docstring, on one line."""
    return " ".join((cls.__doc__ or "").split("\n\n")[0].split())


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
