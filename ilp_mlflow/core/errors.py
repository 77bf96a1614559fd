"""What a user can repair. Anything else keeps its traceback."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterable


class IlpError(Exception):
    """A fault the user can repair: one line with what is wrong, where, and what to do next."""


class ConfigError(IlpError):
    """The experiment file or a parameter is wrong."""


class DatasetError(IlpError):
    """A data file or one of its rows is wrong."""


class ModelError(IlpError):
    """A model cannot be found, read or trained as asked."""


class PluginError(IlpError):
    """A diagnostic or mitigation is missing, broken or answered against its interface."""


class TrackingError(IlpError):
    """MLflow cannot be reached or does not hold what is asked for."""


class StepFailed(Exception):
    """A step failed on its own while the rest of the experiment went on and has a report to show."""


def suggest(name: str, known: Iterable[str]) -> str:
    """Say what may have been meant by `name`: the closest of `known`, or all of them when none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"known are: {', '.join(known)}" if known else "none are known"


def first_line(error: Exception) -> str:
    """The first line of an error's text that says what it is, at most 200 characters; its kind when it has no text."""
    lines = [
        line
        for line in str(error).splitlines()
        if line.strip() and not line.startswith("(raised as a result of")
    ]
    return textwrap.shorten(lines[0], 200, placeholder=" ...") if lines else type(error).__name__
