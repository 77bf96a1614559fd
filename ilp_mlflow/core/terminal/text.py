"""Text and tables that fit the 80 columns of a terminal, in any script."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from rich.console import Console
from rich.measure import measure_renderables
from rich.table import Table
from rich.text import Text

WIDTH = 80
"""Columns of a line, at most."""
MAX_FIRST_COLUMN = 25
"""Columns that the first cell of a row takes, at most: the longest cause."""
MAX_OTHER_COLUMN = 29
"""Columns that any other cell takes, at most: the longest cause and a number behind it."""
COLUMN_GAP = 2
"""Blank columns between two cells."""


def wrap(text: str, indent: int = 0, hang: int = 0, max_lines: int | None = None) -> list[str]:
    """Text as lines that start `indent` columns in, and all but the first `hang` columns further.

    Where there would be more than `max_lines` lines, the last that is shown ends in ' ...'.
    """
    width = WIDTH - indent - hang
    first, *rest = _fold(text, WIDTH - indent)
    if rest:
        # the lines below the first are narrower: fold what they hold once more
        rest = _fold(text[len(first) :].lstrip(), width)
    if max_lines and len(rest) >= max_lines:
        last = _fold(rest[max_lines - 2], width - len(" ..."))[0]
        rest = [*rest[: max_lines - 2], f"{last} ..."]
    return [" " * indent + first, *(" " * (indent + hang) + line for line in rest)]


def format_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines: the first column to the left, the others to the right.

    Columns that do not fit the line go on below, behind the first column once more.
    """
    cells_first, *cells_others = zip(*rows, strict=True)
    first = _fold_column(cells_first, MAX_FIRST_COLUMN)
    blocks = [[first]]
    for cells in cells_others:
        column = _fold_column(cells, MAX_OTHER_COLUMN)
        # a first column alone says nothing: every block has at least one of the others
        if len(blocks[-1]) > 1 and _width([*blocks[-1], column]) > WIDTH:
            blocks.append([first])
        blocks[-1].append(column)
    lines: list[str] = []
    for columns in blocks:
        lines += ["", *_render(columns)]
    return lines[1:]


def printable(text: str) -> str:
    """Text in which all that a terminal would take for a command is replaced."""
    # all control characters but the line feed, which breaks a line here, too
    return re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", "\ufffd", text)


def _fold_column(cells: Sequence[str], width: int) -> list[Text]:
    """Cells with a line break wherever they would be wider than `width`."""
    return [Text("\n".join(_fold(cell, width))) for cell in cells]


def _width(columns: Sequence[Sequence[Text]]) -> int:
    """Columns of the terminal that a table takes."""
    total = COLUMN_GAP * (len(columns) - 1)
    for column in columns:
        total += measure_renderables(_console(), _console().options, column).maximum
    return total


def _render(columns: Sequence[Sequence[Text]]) -> list[str]:
    """The lines of a table that fits."""
    table = Table(box=None, show_header=False, padding=(0, COLUMN_GAP, 0, 0), pad_edge=False)
    for number in range(len(columns)):
        table.add_column(justify="right" if number else "left")
    for cells in zip(*columns, strict=True):
        table.add_row(*cells)
    # cells are Text objects: rich reads markup and emoji codes in strings only
    with _console().capture() as captured:
        _console().print(table)
    rendered = captured.get().removesuffix("\n").split("\n")
    return [line.rstrip() for line in rendered]


def _fold(text: str, width: int) -> list[str]:
    """Text in lines of up to `width` columns."""
    return [line.plain.rstrip() for line in Text(printable(text)).wrap(_console(), width)] or [""]


@functools.cache
def _console() -> Console:
    # plain text for any output; whoever prints it adds colour
    return Console(width=WIDTH, color_system=None)
