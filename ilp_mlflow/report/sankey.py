"""How samples move between checkpoints, and where to draw it. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ilp_mlflow.core.values import Status
from ilp_mlflow.diagnosis.attribution import Fate, fate

ORDER: tuple[Fate, ...] = ("learned", "recovered", "lost", "never learned", "uncertain", "unscored")
"""Of the fates, from top to bottom."""
HEIGHT, LEAST, GAP, BAR, STEP, TOP, SIDE = 240.0, 13.0, 4.0, 12.0, 170.0, 28.0, 60.0
"""Of the figure, px: all bars of a checkpoint, the lowest bar, between bars, width of a bar, between checkpoints, above, beside."""


@dataclass(frozen=True)
class Bar:
    """The samples of one fate under one checkpoint."""

    fate: Fate
    """What became of them so far."""
    count: int
    """How many they are."""
    x: float
    """Left, px."""
    y: float
    """Top, px."""
    height: float
    """Height, px; at least LEAST, so that its number can be read."""


@dataclass(frozen=True)
class Band:
    """The samples that go from one bar to one of the next checkpoint."""

    fate: Fate
    """What becomes of them."""
    text: str
    """Who they are, in words."""
    path: str
    """Its outline, as SVG path data."""


@dataclass(frozen=True)
class Figure:
    """Bars and the bands between them."""

    width: float
    """px."""
    height: float
    """px."""
    columns: tuple[tuple[str, float], ...]
    """Checkpoints and where their bars are, px."""
    bars: tuple[Bar, ...]
    """By checkpoint, then in ORDER."""
    bands: tuple[Band, ...]
    """Of every two checkpoints in a row."""


def courses(histories: Iterable[Sequence[Status]]) -> Counter[tuple[Fate, ...]]:
    """Number of samples by their fates after each checkpoint."""
    found: Counter[tuple[Fate, ...]] = Counter()
    for statuses, number in Counter(map(tuple, histories)).items():
        found[tuple(fate(statuses[: i + 1]) for i in range(len(statuses)))] += number
    return found


def counts(found: Counter[tuple[Fate, ...]], place: int) -> dict[Fate, int]:
    """Number of samples by fate after the checkpoint at `place`, in ORDER; none for what never occurs there."""
    by_fate: Counter[Fate] = Counter()
    for course, number in found.items():
        by_fate[course[place]] += number
    return {name: by_fate[name] for name in ORDER if by_fate[name]}


def figure(found: Counter[tuple[Fate, ...]], columns: Sequence[tuple[str, int]]) -> Figure:
    """Where to draw what becomes of samples at `columns`: checkpoints by name, with their place in the courses `found`."""
    places = [(name, SIDE + STEP * i) for i, (name, _) in enumerate(columns)]
    stacks = [
        _stack(counts(found, place), x) for (_, place), (_, x) in zip(columns, places, strict=True)
    ]
    bands = [
        band
        for i in range(len(columns) - 1)
        for band in _bands(found, columns[i], columns[i + 1], stacks[i], stacks[i + 1])
    ]
    bars = tuple(bar for stack in stacks for bar in stack.values())
    low = max(bar.y + bar.height for bar in bars)
    return Figure(places[-1][1] + BAR + SIDE, low + GAP, tuple(places), bars, tuple(bands))


def _stack(number: dict[Fate, int], x: float) -> dict[Fate, Bar]:
    free, total, y = HEIGHT - LEAST * len(number), sum(number.values()), TOP
    found = {}
    for name, n in number.items():
        height = LEAST + free * n / total
        found[name] = Bar(name, n, x, round(y, 1), round(height, 1))
        y += height + GAP
    return found


def _bands(
    found: Counter[tuple[Fate, ...]],
    a: tuple[str, int],
    b: tuple[str, int],
    left: dict[Fate, Bar],
    right: dict[Fate, Bar],
) -> list[Band]:
    moves: Counter[tuple[Fate, Fate]] = Counter()
    for course, number in found.items():
        moves[course[a[1]], course[b[1]]] += number
    out, into = ({name: bar.y for name, bar in side.items()} for side in (left, right))
    bands = []
    for source in ORDER:
        for target in ORDER:
            number = moves[source, target]
            if not number:
                continue
            x0, x1 = left[source].x + BAR, right[target].x
            middle = (x0 + x1) / 2
            thick = [bar.height * number / bar.count for bar in (left[source], right[target])]
            y0, y1 = out[source], into[target]
            path = (
                f"M{x0:g} {y0:.1f}C{middle:g} {y0:.1f} {middle:g} {y1:.1f} {x1:g} {y1:.1f}V{y1 + thick[1]:.1f}"
                f"C{middle:g} {y1 + thick[1]:.1f} {middle:g} {y0 + thick[0]:.1f} {x0:g} {y0 + thick[0]:.1f}Z"
            )
            bands.append(Band(target, f"{number:,}: {source} at {a[0]}, {target} at {b[0]}", path))
            out[source] += thick[0]
            into[target] += thick[1]
    return bands
