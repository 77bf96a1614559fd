"""How far a stage moved the log-probabilities of its own rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import NamedTuple

import pyarrow.compute as pc

from ilp_mlflow.core.interfaces import Context
from ilp_mlflow.scoring.forward import NEVER_SAID

UNMOVED = 1e-4
"""Nats per token that no row moved by where nothing changed at all: that much is rounding."""


class RowLoss(NamedTuple):
    """How a checkpoint does on the answer of one row."""

    nats: float
    """Negative log-probability of its tokens, summed."""
    tokens: int
    """Tokens of the answer, end token included."""

    @property
    def mean(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens


class Movement(NamedTuple):
    """What a stage did to the answers of its rows, nats per token."""

    before: float
    """Mean over the rows before the stage."""
    after: float
    """Mean over the rows after it."""
    moved: float
    """Mean over the rows of how far each of them moved, up or down."""
    furthest: float
    """How far the row moved that moved most."""
    spread: float
    """Standard deviation of the rows before the stage."""

    @property
    def is_none(self) -> bool:
        """Whether not a single row moved."""
        return self.furthest <= UNMOVED


def row_losses(context: Context, checkpoint: str) -> dict[str, RowLoss]:
    """The losses of scored rows under a checkpoint, by sample id.

    Left out are rows with a token that the checkpoint does not have, and so never says: its loss is
    none that a training could begin with, since a trainer adds the token first.
    """
    table = context.scores.filter(pc.equal(context.scores["checkpoint"], checkpoint))
    columns = table.select(["sample_id", "logprob", "tokens", "gap"]).to_pydict()
    losses = {}
    for id_, logprob, tokens, gap in zip(*columns.values(), strict=True):
        is_scored = logprob is not None and math.isfinite(logprob) and tokens
        if is_scored and gap != NEVER_SAID:
            losses[id_] = RowLoss(-logprob, tokens)
    return losses


def stage_movement(context: Context, stage: str) -> Movement | None:
    """How far a stage moved its rows; None where they are not scored before and after it.

    Before it is the earlier checkpoint that is nearest to it: models trained elsewhere may not
    stand on the one that is named in front of them.
    """
    names = [checkpoint.name for checkpoint in context.checkpoints]
    earlier = [name for name in names[: names.index(stage)] if "@" not in name]
    after = row_losses(context, stage)
    movements = []
    for name in earlier:
        movement = _movement(context, stage, row_losses(context, name), after)
        if movement is not None:
            movements.append(movement)
    return min(movements, key=lambda movement: movement.moved, default=None)


def _movement(
    context: Context, stage: str, before: Mapping[str, RowLoss], after: Mapping[str, RowLoss]
) -> Movement | None:
    ids = [id_ for id_, sample in context.samples.items() if sample.stage == stage]
    scored = [id_ for id_ in ids if id_ in before and id_ in after]
    if not scored:
        return None
    old = [before[id_].mean for id_ in scored]
    new = [after[id_].mean for id_ in scored]
    moved = [abs(b - a) for a, b in zip(old, new, strict=True)]
    return Movement(
        before=statistics.fmean(old),
        after=statistics.fmean(new),
        moved=statistics.fmean(moved),
        furthest=max(moved),
        spread=statistics.pstdev(old),
    )
