"""Lists of data sets that other trainers keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ilp_mlflow.core.config import DataConfig


def read_dataset_info(path: Path, name: str) -> DataConfig:
    """The data set `name` of a `dataset_info.json`."""
    raise NotImplementedError


def read_axolotl_datasets(config: dict[str, Any], folder: Path) -> list[DataConfig]:
    """The data sets of `datasets:`."""
    raise NotImplementedError
