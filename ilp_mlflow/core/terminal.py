"""Text that fits 80 columns of a terminal, in any script."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

WIDTH = 80
FIRST, OTHER = 25, 29
"""Most columns that the first and the other cells of a row take: the longest cause, and that with a number behind it."""
GAP = 2


def wrap(text: str, indent: int = 0, hang: int = 0, most: int | None = None) -> list[str]:
    """Text as lines, all but the first `hang` columns further in; beyond `most` lines it ends in ' ...'."""
    first, *more = _fold(text, WIDTH - indent)
    if more:
        more = _fold(text[len(first) :].lstrip(), WIDTH - indent - hang)
    if most and len(more) >= most:
        more[most - 2 :] = [f"{_fold(more[most - 2], WIDTH - indent - hang - 4)[0]} ..."]
    return [" " * indent + first, *(" " * (indent + hang) + line for line in more)]


def format_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines, the first column to the left, the others to the right; what does not fit goes on below."""
    cells = [[_fold(cell, OTHER if i else FIRST) for i, cell in enumerate(row)] for row in rows]
    widths = [max(cell_len(line) for row in cells for line in row[i]) for i in range(len(cells[0]))]
    blocks: list[list[int]] = [[]]
    for i in range(1, len(widths)):
        if blocks[-1] and widths[0] + sum(widths[j] + GAP for j in (*blocks[-1], i)) > WIDTH:
            blocks.append([])
        blocks[-1].append(i)
    lines = list[str]()
    for block in blocks:
        lines += [""] if lines else []
        for row in cells:
            for n in range(max(len(row[i]) for i in (0, *block))):
                first, *others = [(row[i][n : n + 1] or [""])[0] for i in (0, *block)]
                padded = [
                    " " * (widths[i] - cell_len(text)) + text
                    for i, text in zip(block, others, strict=True)
                ]
                lines.append(
                    (" " * GAP)
                    .join([first + " " * (widths[0] - cell_len(first)), *padded])
                    .rstrip()
                )
    return lines


def _fold(text: str, width: int) -> list[str]:
    """Text in lines of up to `width` columns; what a terminal would take for a command is replaced."""
    clean = re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", "\ufffd", text)
    return [line.plain.rstrip() for line in Text(clean).wrap(_console(), width)] or [""]


@functools.cache
def _console() -> Console:
    return Console(width=WIDTH)
