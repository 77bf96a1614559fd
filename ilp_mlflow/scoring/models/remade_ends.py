"""Embeddings and heads that have nothing of those of an earlier model, though all else has."""

from __future__ import annotations

from statistics import median

import torch

from ilp_mlflow.scoring.models.compared_weights import FileWeights

BLOCKS, BLOCK_ROWS = 8, 32
"""Rows of an embedding that are compared: so many blocks of so many, spread over all."""
UNLIKE = 0.2
"""Cosine of two rows up to which they have nothing in common; of random ones of usual width it is
below 0.1."""
ALIKE = 0.5
"""Cosine that the rows of the other matrices must have in the middle: those of one model."""
REMADE = 0.5
"""Share 0..1 of the rows from which an end was remade: single rows may be trained far."""


def find_remade_ends(
    model: FileWeights, earlier: FileWeights, ends: tuple[str, str]
) -> tuple[str, ...]:
    """Names of the `ends` (embedding, head) that have nothing of the earlier model's.

    None of them where the other matrices have nothing of it either: that is another model.
    """
    remade = []
    for name in dict.fromkeys(ends):
        cosines = _row_cosines(model, earlier, name, BLOCKS)
        unlike = sum(cosine <= UNLIKE for cosine in cosines)
        if cosines and unlike >= REMADE * len(cosines):
            remade.append(name)
    if not remade:
        return ()
    others = []
    for name in model.names:
        if name not in ends:
            others += _row_cosines(model, earlier, name, blocks=1)
    return tuple(remade) if others and median(others) >= ALIKE else ()


def _row_cosines(one: FileWeights, other: FileWeights, name: str, blocks: int) -> list[float]:
    """Cosines of rows that a matrix has in two models, [] where it cannot be compared.

    Rows of zeros, as padding has them, are left out.
    """
    rows = min(one.count_rows(name), other.count_rows(name))
    cosines: list[float] = []
    for number in range(blocks):
        start = number * rows // blocks
        parts = []
        for weights in (one, other):
            part = weights.get_rows(name, start, min(start + BLOCK_ROWS, rows))
            if part is None or part.dim() != 2:
                return []
            parts.append(part.float())
        if parts[0].shape != parts[1].shape:
            return []
        has_values = (parts[0].norm(dim=1) > 0) & (parts[1].norm(dim=1) > 0)
        cosines += torch.cosine_similarity(*parts)[has_values].tolist()
    return cosines
