"""How samples move between checkpoints, laid out as a Sankey diagram. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ilp_mlflow.core.values import Status
from ilp_mlflow.diagnosis.attribution import Fate, fate

FATE_ORDER: tuple[Fate, ...] = (
    "learned",
    "recovered",
    "lost",
    "never learned",
    "uncertain",
    "unscored",
)
"""Of the bars of a checkpoint, from top to bottom."""
BARS_HEIGHT = 240.0
"""All bars of a checkpoint together, without the gaps between them, px."""
MIN_BAR_HEIGHT = 13.0
"""Lowest bar, px: its number must be readable."""
BAR_GAP = 4.0
"""Between two bars of a checkpoint, px."""
BAR_WIDTH = 12.0
"""px."""
COLUMN_STEP = 170.0
"""From one checkpoint to the next, px."""
MARGIN_TOP = 28.0
"""Above the bars, px."""
MARGIN_SIDE = 60.0
"""Beside the first and the last checkpoint, px."""

Course = tuple[Fate, ...]
"""What became of a sample after each checkpoint."""


class Column(NamedTuple):
    """A checkpoint that is drawn."""

    name: str
    """The checkpoint."""
    place: int
    """Its place among all checkpoints, so in every course."""


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
    """px, at least MIN_BAR_HEIGHT."""


@dataclass(frozen=True)
class Band:
    """The samples that go from one bar to one of the next checkpoint."""

    fate: Fate
    """What becomes of them."""
    text: str
    """How many go from where to where, in words."""
    path: str
    """Its outline, as SVG path data."""


class _Edge(NamedTuple):
    """Where a band meets a bar, px."""

    x: float
    y: float
    height: float


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
    """By checkpoint, then in FATE_ORDER."""
    bands: tuple[Band, ...]
    """Of every two checkpoints in a row."""


def count_courses(histories: Iterable[Sequence[Status]]) -> Counter[Course]:
    """Number of samples by their fates after each checkpoint."""
    courses: Counter[Course] = Counter()
    # There are far fewer histories than samples that share them.
    for statuses, number in Counter(map(tuple, histories)).items():
        courses[_course(statuses)] += number
    return courses


def _course(statuses: Sequence[Status]) -> Course:
    return tuple(fate(statuses[: i + 1]) for i in range(len(statuses)))


def count_fates(courses: Mapping[Course, int], place: int) -> dict[Fate, int]:
    """Number of samples by fate after the checkpoint at `place`, in FATE_ORDER.

    A fate that no sample has there is left out.
    """
    counts: Counter[Fate] = Counter()
    for course, number in courses.items():
        counts[course[place]] += number
    return {name: counts[name] for name in FATE_ORDER if counts[name]}


def lay_out(courses: Mapping[Course, int], columns: Sequence[Column]) -> Figure:
    """Where to draw what becomes of the samples of `courses` at the checkpoints of `columns`."""
    places = []
    stacks = []
    bars: list[Bar] = []
    for i, column in enumerate(columns):
        x = MARGIN_SIDE + COLUMN_STEP * i
        stack = _stack(count_fates(courses, column.place), x)
        places.append((column.name, x))
        stacks.append(stack)
        bars += stack.values()
    bands = []
    for i in range(len(columns) - 1):
        bands += _bands(courses, columns[i], columns[i + 1], stacks[i], stacks[i + 1])
    _, last_x = places[-1]
    return Figure(
        width=last_x + BAR_WIDTH + MARGIN_SIDE,
        height=max(bar.y + bar.height for bar in bars) + BAR_GAP,
        columns=tuple(places),
        bars=tuple(bars),
        bands=tuple(bands),
    )


def _stack(counts: Mapping[Fate, int], x: float) -> dict[Fate, Bar]:
    """The bars of one checkpoint, from top to bottom."""
    # Every bar has the least height; the rest is shared out by number of samples.
    free = BARS_HEIGHT - MIN_BAR_HEIGHT * len(counts)
    total = sum(counts.values())
    y = MARGIN_TOP
    bars = {}
    for name, count in counts.items():
        height = MIN_BAR_HEIGHT + free * count / total
        bars[name] = Bar(name, count, x, round(y, 1), round(height, 1))
        y += height + BAR_GAP
    return bars


def _bands(
    courses: Mapping[Course, int],
    left: Column,
    right: Column,
    left_bars: Mapping[Fate, Bar],
    right_bars: Mapping[Fate, Bar],
) -> list[Band]:
    """The bands between two checkpoints; at each bar they lie below each other without a gap."""
    moves: Counter[tuple[Fate, Fate]] = Counter()
    for course, number in courses.items():
        moves[course[left.place], course[right.place]] += number
    # Where the next band begins at each bar.
    left_y = {name: bar.y for name, bar in left_bars.items()}
    right_y = {name: bar.y for name, bar in right_bars.items()}
    bands = []
    # In the order of the bars on both sides, bands that go alongside do not cross.
    for source in FATE_ORDER:
        for target in FATE_ORDER:
            number = moves[source, target]
            if not number:
                continue
            source_bar, target_bar = left_bars[source], right_bars[target]
            left_edge = _Edge(
                x=source_bar.x + BAR_WIDTH,
                y=left_y[source],
                height=source_bar.height * number / source_bar.count,
            )
            right_edge = _Edge(
                x=target_bar.x,
                y=right_y[target],
                height=target_bar.height * number / target_bar.count,
            )
            text = f"{number:,}: {source} at {left.name}, {target} at {right.name}"
            bands.append(Band(target, text, _outline(left_edge, right_edge)))
            left_y[source] += left_edge.height
            right_y[target] += right_edge.height
    return bands


def _outline(left: _Edge, right: _Edge) -> str:
    """A band as SVG path data: two curves, each level where it meets a bar."""
    middle = (left.x + right.x) / 2
    left_end, right_end = left.y + left.height, right.y + right.height
    upper = f"C{middle:g} {left.y:.1f} {middle:g} {right.y:.1f} {right.x:g} {right.y:.1f}"
    lower = f"C{middle:g} {right_end:.1f} {middle:g} {left_end:.1f} {left.x:g} {left_end:.1f}"
    return f"M{left.x:g} {left.y:.1f}{upper}V{right_end:.1f}{lower}Z"
