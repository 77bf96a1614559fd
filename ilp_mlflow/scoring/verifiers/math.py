"""Check of a mathematical result, by Math-Verify."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Sequence
from typing import Any

from ilp_mlflow.data.lexical import NUMBER, plain_number

RESULT_MARK = re.compile(r"####\s*(.+)\s*$")
"""What the rows of GSM8K put in front of the result."""
FIRST_MARK = re.compile(r"####[ \t]*([^\n]*)")
PLAIN = re.compile(r"\W*-?\W*[\d,]*\.?\d+\s*%?\s*[a-z ]*\W*", re.IGNORECASE)
"""A number with its currency or unit, and nothing to compute."""
THINKING = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
"""A thought before the answer; one that never ends leaves no answer."""


def math(completions: Sequence[str], answer: Sequence[str], **columns: Any) -> list[float | None]:
    """1 where the result that is said equals the row's: a number, an expression, a set.

    The result is behind `####`, in a box, or the last that is said. None where the row's own
    answer has no result. Raises ImportError without `math-verify`.
    """
    from math_verify import parse, verify

    # its time limits work in the main thread only
    limits = threading.current_thread() is threading.main_thread()
    parsing = {"parsing_timeout": 5 if limits else None}
    if not limits:
        logging.getLogger("math_verify").setLevel(logging.ERROR)
    values: list[float | None] = []
    for said, right in zip(completions, answer, strict=True):
        numbers = _marked_number(right), _marked_number(said)
        if None not in numbers:
            values.append(float(numbers[0] == numbers[1]))
            continue
        gold = parse(_result(right), **parsing)
        if not gold:
            values.append(None)
            continue
        found = parse(_result(said), **parsing)
        equal = verify(gold, found, timeout_seconds=5 if limits else None)
        values.append(float(equal))
    return values


def _result(text: str) -> str:
    """What of a text holds its result."""
    text = THINKING.sub("", text)
    marked = RESULT_MARK.search(text.strip())
    return f"${marked[1]}$" if marked else text


def _marked_number(text: str) -> str | None:
    """The first number behind the first `####`, as short as it can be written; None for none."""
    marked = FIRST_MARK.search(THINKING.sub("", text))
    if not marked:
        return None
    number = NUMBER.search(marked[1])
    if not number or not PLAIN.fullmatch(marked[1]):
        return None
    sign = "-" if marked[1][: number.start()].strip().endswith("-") else ""
    return sign + plain_number(number)
