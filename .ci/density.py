"""How dense code reads: `python .ci/density.py FOLDER...` prints a line for each folder; no gate.

Decisions per line: functions, branches, loops, conditional expressions, handlers, assertions,
further operands of `and` and `or`, clauses of comprehensions and match cases, over the lines of
functions that are neither blank nor comments nor docstrings. Comprehensions are counted per 100
such lines, full comment lines over all lines that are not blank.
"""

from __future__ import annotations

import ast
import io
import statistics
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
DECISIONS = (
    *FUNCTIONS,
    ast.If,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.IfExp,
    ast.ExceptHandler,
    ast.Assert,
    ast.match_case,
)
MAX_LINE = 100
"""Characters of a line that is not long."""


@dataclass
class Counts:
    """What was counted in a folder."""

    files: int = 0
    lines: int = 0
    comments: int = 0
    long_lines: int = 0
    decisions: int = 0
    comprehensions: int = 0
    function_lines: list[int] = field(default_factory=list)

    def __str__(self) -> str:
        code = sum(self.function_lines)
        lengths = sorted(self.function_lines)
        return (
            f"{self.files} files, {self.lines} lines; function lines "
            f"{statistics.median(lengths):.0f} / {lengths[int(0.95 * (len(lengths) - 1))]} / "
            f"{lengths[-1]} (median, 95 %, longest); decisions per line "
            f"{self.decisions / code:.2f}; comprehensions per 100 lines "
            f"{100 * self.comprehensions / code:.1f}; comments {self.comments / self.lines:.1%}; "
            f"lines over {MAX_LINE} characters {self.long_lines / self.lines:.1%}"
        )


def count(folder: Path) -> Counts:
    """Counts over all Python files below a folder."""
    counts = Counts()
    for path in sorted(folder.rglob("*.py")):
        add_file(path.read_text(encoding="utf-8"), counts)
    return counts


def add_file(text: str, counts: Counts) -> None:
    """Add what one file holds."""
    tree, lines = ast.parse(text), text.splitlines()
    blank = {number for number, line in enumerate(lines, 1) if not line.strip()}
    comments = set(comment_lines(text))
    no_code = blank | comments | set(docstring_lines(tree))
    counts.files += 1
    counts.lines += len(lines) - len(blank)
    counts.comments += len(comments)
    counts.long_lines += sum(len(line) > MAX_LINE for line in lines)
    for function in outermost_functions(tree):
        own = range(function.lineno, (function.end_lineno or function.lineno) + 1)
        counts.function_lines.append(sum(number not in no_code for number in own))
        for node in ast.walk(function):
            counts.decisions += decisions(node)
            counts.comprehensions += isinstance(node, COMPREHENSIONS)


def decisions(node: ast.AST) -> int:
    """Decisions that a node itself makes."""
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    return int(isinstance(node, DECISIONS))


def outermost_functions(node: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions that are in no other function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, FUNCTIONS):
            yield child
        else:
            yield from outermost_functions(child)


def docstring_lines(tree: ast.AST) -> Iterator[int]:
    """Numbers of the lines of docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, *FUNCTIONS)) and ast.get_docstring(node):
            docstring = node.body[0]
            yield from range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1)


def comment_lines(text: str) -> Iterator[int]:
    """Numbers of the lines that hold a comment and nothing else."""
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and lines[token.start[0] - 1].lstrip().startswith("#"):
            yield token.start[0]


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"{name}: {count(Path(name))}")
