"""Errors that a user can repair, each told in one line; anything else keeps its traceback."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterable

MAX_FIRST_LINE = 200
"""Characters of an error's text that go into a message of ours."""


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
    """A step failed on its own; the rest of the experiment went on and has a report to show."""


def suggest(name: str, known: Iterable[str]) -> str:
    """What `name` may have been meant to be: the closest of `known`, or all where none is close."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"did you mean '{close[0]}'?"
    if names:
        return f"known are: {', '.join(names)}"
    return "none are known"


def first_line(error: Exception) -> str:
    """The first line of an error's text that says what it is, at most 200 characters long.

    The name of the error's class where it has no text.
    """
    for line in str(error).splitlines():
        # SQLAlchemy puts a line about its own doings above the database's message
        if line.strip() and not line.startswith("(raised as a result of"):
            return textwrap.shorten(line, MAX_FIRST_LINE, placeholder=" ...")
    return type(error).__name__
