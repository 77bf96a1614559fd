"""What is wrong with the form of a batch, whatever its rows say: labels and padding."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt

from ilp_mlflow.training.accounts.row_account import IGNORED

Integers = npt.NDArray[np.int64]

OFFSETS = (0, 1, -1)
"""Places from its own at which a label may have its token: as a model wants it, then shifted."""
MOST_ROWS = 0.5
"""Share 0..1 of the rows from which it is the trainer's doing."""


class BatchForm:
    """Counts of the rows of batches by the form that a model is given them in."""

    def __init__(self) -> None:
        self.rows = 0
        """Rows that were seen."""
        self.attended = 0
        """Of these, those with padding in front that the model reads as text."""
        self._offsets = Counter[int | None]()

    def note_labels(self, ids: Integers, labels: Integers) -> None:
        """Note a row with labels."""
        if (labels != IGNORED).any():
            self._offsets[label_offset(ids, labels)] += 1

    @property
    def label_offset(self) -> int:
        """How far most labels stand from their token; 0 where as they should, or not known."""
        for offset, rows in self._offsets.most_common(1):
            if offset and rows > MOST_ROWS * self._offsets.total():
                return offset
        return 0

    @property
    def labelled_rows(self) -> int:
        """Rows that were seen with labels."""
        return self._offsets.total()


def label_offset(ids: Integers, labels: Integers) -> int | None:
    """How far behind its label the token of each stands in a row; None where it is none of OFFSETS.

    0: each label is of its own place, 1: of the next token, -1: of the one before. `ids` and
    `labels` are (tokens,), padding left out.
    """
    places = np.flatnonzero(labels != IGNORED)
    for offset in OFFSETS:
        inside = places[(places + offset >= 0) & (places + offset < len(ids))]
        if len(inside) and np.array_equal(labels[inside], ids[inside + offset]):
            return offset
    return None


def is_padded_in_front(ids: Integers, without_padding: Integers) -> bool:
    """Whether a row has padding in front of the tokens that it has without any."""
    kept = len(without_padding)
    return kept < len(ids) and not np.array_equal(ids[:kept], without_padding)
