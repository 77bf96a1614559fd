"""Find a check by name or import path, and call it as TRL calls a reward function."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math as math_functions
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ilp_mlflow.core.errors import PluginError, first_line, suggest
from ilp_mlflow.core.values import Sample
from ilp_mlflow.scoring.verifiers.json_data import json_data
from ilp_mlflow.scoring.verifiers.math import math
from ilp_mlflow.scoring.verifiers.python_tests import python_tests
from ilp_mlflow.scoring.verifiers.texts import choice, contains, exact, rouge_l
from ilp_mlflow.tracking.mlflow_scorers import as_check, is_scorer

Check = Callable[..., Sequence[float | None]]
"""`f(completions, **columns) -> list[float | None]`, as TRL's reward functions."""
BUILT_IN: Mapping[str, Check] = {
    "math": math,
    "exact": exact,
    "contains": contains,
    "json": json_data,
    "choice": choice,
    "python_tests": python_tests,
    "rouge_l": rouge_l,
}
MODULES = {"math": "math_verify", "rouge_l": "rouge_score"}
"""Modules that built-in checks import, by name of the check; of an extra of this project."""


def find_check(name: str) -> Check:
    """The check of a name, or at an import path such as `my_checks:tests_pass`.

    A module beside the current folder's files is found, too; a scorer of MLflow becomes a check.
    Raises PluginError for a name that is unknown, a path that leads nowhere, and a check whose
    package is not installed.
    """
    if name in BUILT_IN:
        _refuse_without_package(name)
        return BUILT_IN[name]
    module_name, colon, attribute = name.replace(":", ".").rpartition(".")
    if not colon:
        raise PluginError(
            f"verify.check '{name}' is not built in; {suggest(name, list(BUILT_IN))}; or give an "
            "import path such as my_checks:tests_pass"
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    # a module of the user's may fail to import in any way
    except Exception as error:
        raise PluginError(
            f"verify.check '{name}' cannot be imported ({type(error).__name__}: "
            f"{first_line(error)}); it must be MODULE:FUNCTION, importable from here"
        ) from None
    if is_scorer(found):
        return as_check(found)
    if not callable(found):
        raise PluginError(f"verify.check '{name}' is no function, but {type(found).__name__}")
    check: Check = found
    return check


def _refuse_without_package(name: str) -> None:
    """Raise PluginError where a built-in check cannot import what it needs."""
    module = MODULES.get(name)
    if module is not None and importlib.util.find_spec(module) is None:
        raise PluginError(_lacks_package(name, module))


def _lacks_package(name: str, module: str) -> str:
    return f"verify.check '{name}' needs {module}: pip install 'ilp-mlflow[verify]'"


def run_check(
    name: str,
    check: Check,
    samples: Sequence[Sample],
    completions: Sequence[str],
    arguments: Mapping[str, Any],
) -> list[float | None]:
    """The value of each completion, given to the sample in the same place.

    The check is given the rows' columns by name, `prompts`, `answer` (what the row answers) and
    `options`; completions of conversations as lists of one message, as TRL gives them, unless it
    is built in. Raises PluginError where it raises, or gives another number of values.
    """
    if not samples:
        return []
    columns = _columns(samples)
    if name in BUILT_IN:
        # a row's column is not an option of a check that happens to have its name
        columns = {n: c for n, c in columns.items() if n not in _options(check)}
        _refuse_unknown(name, check, arguments)
    elif getattr(check, "takes_text", False) and arguments:
        raise PluginError(f"verify.arguments: '{name}' is a scorer of MLflow, which takes none")
    _refuse_lacking(name, check, columns | dict(arguments), samples)
    given: list[Any] = list(completions)
    if name not in BUILT_IN and not getattr(check, "takes_text", False):
        given = [_as_trained(s, said) for s, said in zip(samples, completions, strict=True)]
    try:
        values = list(check(completions=given, **_accepted(check, columns), **arguments))
        numbers = [_number(value) for value in values]
    except ImportError as error:
        raise PluginError(_lacks_package(name, error.name or "a package")) from None
    # a check of the user's may fail in any way
    except Exception as error:
        raise PluginError(
            f"verify.check '{name}' failed: {type(error).__name__}: {first_line(error)}"
        ) from error
    if len(values) != len(completions):
        raise PluginError(
            f"verify.check '{name}' was given {len(completions)} completions and returned "
            f"{len(values)} values; it must return one for each"
        )
    return numbers


def _number(value: object) -> float | None:
    """A value of a check as a number; None where it gives none, or what is no number."""
    if value is None:
        return None
    number = float(value)  # type: ignore[arg-type]
    return None if math_functions.isnan(number) else number


def _options(check: Check) -> list[str]:
    """Names of the parameters that a check can do without."""
    return [p.name for p in _parameters(check).values() if p.default is not p.empty]


def _refuse_unknown(name: str, check: Check, arguments: Mapping[str, Any]) -> None:
    """Raise PluginError for an argument that a built-in check does not have."""
    for argument in arguments:
        if argument not in _options(check):
            raise PluginError(
                f"verify.arguments: the check '{name}' has no '{argument}'; "
                f"{suggest(argument, _options(check)) if _options(check) else 'it takes none'}"
            )


def _refuse_lacking(
    name: str, check: Check, columns: Mapping[str, Any], samples: Sequence[Sample]
) -> None:
    """Raise PluginError where the rows lack a column that the check cannot do without."""
    for parameter in _parameters(check).values():
        is_needed = parameter.default is parameter.empty and parameter.kind in (
            parameter.POSITIONAL_OR_KEYWORD,
            parameter.KEYWORD_ONLY,
        )
        if is_needed and parameter.name != "completions" and parameter.name not in columns:
            raise PluginError(
                f"verify.check '{name}' needs the column '{parameter.name}', which no row has "
                f"(such as {samples[0].name}); add it to the data"
            )


def _parameters(check: Check) -> Mapping[str, inspect.Parameter]:
    """The parameters of a check; none where they cannot be told."""
    try:
        return inspect.signature(check).parameters
    except (TypeError, ValueError):
        return {}


def _columns(samples: Sequence[Sample]) -> dict[str, list[Any]]:
    """The columns of the samples' rows; None where a row does not have one."""
    names = dict.fromkeys(name for sample in samples for name in sample.metadata)
    # given by its own name
    names.pop("completions", None)
    columns: dict[str, list[Any]] = {}
    for name in names:
        columns[name] = [sample.metadata.get(name) for sample in samples]
    columns["prompts"] = [_as_given(sample.prompt) for sample in samples]
    columns["options"] = [sample.options for sample in samples]
    answers = [sample.answer for sample in samples]
    columns["answer"] = answers
    # what TRL's own reward functions call it, where the rows do not
    columns.setdefault("solution", answers)
    return columns


def _as_given(prompt: Any) -> Any:
    return prompt if isinstance(prompt, str) else prompt.as_dicts()


def _as_trained(sample: Sample, said: str) -> Any:
    """A completion in the form of its row: text, or a list of one message."""
    if isinstance(sample.completion, str):
        return said
    return [{"role": "assistant", "content": said}]


def _accepted(check: Check, columns: dict[str, list[Any]]) -> dict[str, Any]:
    """The columns that a check takes: all, unless it names those it wants."""
    parameters = _parameters(check)
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if takes_all or not parameters:
        return columns
    return {name: values for name, values in columns.items() if name in parameters}
