"""Held-out rows that are trained all the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ilp_mlflow.core.config import Experiment
from ilp_mlflow.core.value import Value
from ilp_mlflow.core.values import Sample, Stage
from ilp_mlflow.data.matching import answer_key, prompt_key
from ilp_mlflow.data.samples import load_samples


class HeldOutRows(Value):
    """How many of the rows that are to show what a training breaks are in that training."""

    rows: int
    """Held-out rows."""
    trained: int
    """Of these, those that are also trained: the same prompt with the same answer."""
    example: str = ""
    """The first of them and the row that trains it; "" without one."""

    @property
    def sentence(self) -> str:
        """What is so: `7 of 20 held-out rows are also trained: ...`."""
        return (
            f"{self.trained} of {self.rows} held-out rows are also trained: what is lost on them "
            "is not measured"
        )


CHANGE = "take them out of what is trained, or out of the held-out rows"
"""What mends it."""


def read_held_out(experiment: Experiment, stages: Iterable[Stage]) -> HeldOutRows | None:
    """The held-out rows of an experiment against those of its stages; None: it has none.

    Raises DatasetError for held-out rows that cannot be read.
    """
    if not experiment.held_out:
        return None
    held_out = load_held_out(experiment)
    return compare_held_out(held_out, [row for stage in stages for row in stage.samples])


def load_held_out(experiment: Experiment) -> list[Sample]:
    """The held-out rows of an experiment; none where it has none. Raises DatasetError."""
    if not experiment.held_out:
        return []
    return load_samples("held_out", experiment.held_out)


def compare_held_out(held_out: Sequence[Sample], trained: Iterable[Sample]) -> HeldOutRows:
    """Which held-out rows are among the trained ones, however they are punctuated."""
    trained_by_key: dict[tuple[str, str], Sample] = {}
    for row in trained:
        trained_by_key.setdefault(_key(row), row)
    pairs = []
    for row in held_out:
        twin = trained_by_key.get(_key(row))
        if twin is not None:
            pairs.append((row, twin))
    example = ""
    if pairs:
        row, twin = pairs[0]
        example = f"{row.name} is {twin.name}"
    return HeldOutRows(rows=len(held_out), trained=len(pairs), example=example)


def never_trained(held_out: Sequence[Sample], trained: Iterable[Sample]) -> list[Sample]:
    """The held-out rows that are not among the trained ones, however they are punctuated."""
    keys = {_key(row) for row in trained}
    return [row for row in held_out if _key(row) not in keys]


def _key(row: Sample) -> tuple[str, str]:
    return prompt_key(row.prompt), answer_key(row.answer)
