"""Draw the figures of the docs: the layers, from the import contract, and the flow of a sample.

`make docs` runs it; a test compares what it draws with what is there.
"""

import ast
import textwrap
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).parents[1]
IMAGES = Path(__file__).parent / "images"
FONT = "font-family='system-ui, sans-serif'"
INK, PAPER, LINE, ACCENT = "#1f2933", "#ffffff", "#9aa5b1", "#e8f0fe"
FLOW = (
    ("rows", "as people have them: JSONL, CSV, Parquet, a data set"),
    ("stages", "trained by TRL, one after the other; a ledger notes each sample"),
    ("checkpoints", "base, every stage: each scores every sample"),
    ("verdicts", "learned, unlearned, uncertain; since when, and when lost"),
    ("causes", "evidence of six diagnostics and yours; one cause, or none"),
    ("mitigations", "another recipe and its control, trained and scored again"),
    ("report", "what came back, what broke, what to do first"),
)
"""What a sample goes through, and in a few words what happens there."""


@dataclass(frozen=True)
class Box:
    """A rectangle with a name and a few words."""

    name: str
    words: str
    x: float
    y: float
    width: float
    height: float

    def draw(self) -> Iterator[str]:
        """SVG elements."""
        yield (
            f"<rect x='{self.x:g}' y='{self.y:g}' width='{self.width:g}' height='{self.height:g}' "
            f"rx='6' fill='{ACCENT}' stroke='{LINE}'/>"
        )
        left = self.x + 12
        yield text(self.name, left, self.y + 22, 15, bold=True)
        lines = textwrap.wrap(self.words, int((self.width - 24) / 6.3))
        for number, line in enumerate(lines):
            yield text(line, left, self.y + 41 + 16 * number, 12)


def text(words: str, x: float, y: float, size: int, bold: bool = False) -> str:
    """One line of text that begins at x and stands on y."""
    weight = " font-weight='600'" if bold else ""
    return (
        f"<text x='{x:g}' y='{y:g}' font-size='{size}'{weight} fill='{INK}'>{escape(words)}</text>"
    )


def arrow(x0: float, y0: float, x1: float, y1: float) -> str:
    """A line with a head at its end."""
    return f"<path d='M{x0:g} {y0:g}L{x1:g} {y1:g}' stroke='{LINE}' marker-end='url(#head)'/>"


def picture(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    """A whole SVG file."""
    head = (
        "<marker id='head' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='7' markerHeight='7' "
        f"orient='auto'><path d='M0 0L8 4L0 8z' fill='{LINE}'/></marker>"
    )
    body = "\n".join(parts)
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width:g} {height:g}' {FONT} "
        f"role='img' aria-label='{escape(title)}'>\n<defs>{head}</defs>\n"
        f"<rect width='{width:g}' height='{height:g}' fill='{PAPER}'/>\n{body}\n</svg>\n"
    )


def layers() -> list[list[str]]:
    """Folders and modules of the import contract, the lowest first; those in a row are equal."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    rows = next(c for c in contracts if c["type"] == "layers")["layers"]
    return [[name.strip() for name in row.split("|")] for row in reversed(rows)]


def meaning(name: str) -> str:
    """The first sentence of the docstring of a folder or module of the package."""
    folder = ROOT / "ilp_mlflow" / name
    file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.split("\n\n")[0].split())


def architecture() -> str:
    """The layers from top to bottom: what is above imports what is below, never back."""
    rows = list(reversed(layers()))
    width, height, gap, side = 860.0, 34.0, 12.0, 20.0
    parts = list[str]()
    y = side
    for number, names in enumerate(rows):
        room = (width - 2 * side - gap * (len(names) - 1)) / len(names)
        for place, name in enumerate(names):
            x = side + place * (room + gap)
            folder = (ROOT / "ilp_mlflow" / name).is_dir()
            parts += Box(f"{name}/" if folder else name, "", x, y, room, height).draw()
            if len(names) == 1:
                parts.append(text(meaning(name), x + 150, y + 22, 13))
        if number < len(rows) - 1:
            parts.append(arrow(width / 2, y + height, width / 2, y + height + gap))
        y += height + gap
    return picture(width, y - gap + side, "What imports what: from top to bottom only", parts)


def flow() -> str:
    """What a sample goes through, from its row to the report."""
    width, height, gap, side = 130.0, 118.0, 22.0, 12.0
    parts = list[str]()
    for number, (name, words) in enumerate(FLOW):
        x = side + number * (width + gap)
        parts += Box(name, words, x, side, width, height).draw()
        if number:
            parts.append(arrow(x - gap, side + height / 2, x, side + height / 2))
    total = 2 * side + len(FLOW) * (width + gap) - gap
    return picture(total, height + 2 * side, "From a row to the report", parts)


FIGURES = {"architecture.svg": architecture, "flow.svg": flow}

if __name__ == "__main__":
    for name, draw in FIGURES.items():
        (IMAGES / name).write_text(draw(), encoding="utf-8")
