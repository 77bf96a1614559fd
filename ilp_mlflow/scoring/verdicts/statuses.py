"""Statuses as small numbers, for columns of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ilp_mlflow.core.values import Status

STATUSES: tuple[Status, ...] = ("unlearned", "learned", "uncertain", "unscored")
UNLEARNED, LEARNED, UNCERTAIN, UNSCORED = 0, 1, 2, 3
Codes = npt.NDArray[np.int8]
"""Statuses as indices into STATUSES."""
