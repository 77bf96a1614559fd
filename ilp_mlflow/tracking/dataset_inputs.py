"""Samples as data sets in MLflow: the inputs of a run, and what its metrics are of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag

from ilp_mlflow.core.config import DataConfig
from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.samples import samples_digest

DIGEST_LENGTH = 12
"""Characters of a data set's digest that MLflow is given: it takes 36, and shows them all."""
COLUMNS = ("sample_id", "prompt", "completion")
"""What the UI shows of a data set's columns; all are text."""


class DatasetId(NamedTuple):
    """What MLflow knows a data set by."""

    name: str
    digest: str


def dataset_id(name: str, samples: Sequence[Sample]) -> DatasetId:
    """The name and digest that samples have as a data set in MLflow."""
    return DatasetId(name, samples_digest(samples)[:DIGEST_LENGTH])


def log_dataset(
    run_id: str,
    name: str,
    samples: Sequence[Sample],
    context: str,
    origin: DataConfig | None = None,
) -> DatasetId:
    """Log samples as a data set that went into a run.

    `context` says what for (`training`), `origin` where they are from; None: they were made.
    """
    identity = dataset_id(name, samples)
    source_type, source = _source(origin)
    # the form of MLflow's own `mlflow.types.Schema`
    columns = [{"type": "string", "name": column, "required": True} for column in COLUMNS]
    dataset = Dataset(
        identity.name,
        identity.digest,
        source_type,
        source=json.dumps(source),
        schema=json.dumps({"mlflow_colspec": columns}),
        profile=json.dumps({"num_rows": len(samples)}),
    )
    tags = [InputTag("mlflow.data.context", context)]
    MlflowClient().log_inputs(run_id, [DatasetInput(dataset, tags)])
    return identity


def _source(origin: DataConfig | None) -> tuple[str, dict[str, Any]]:
    """Type and fields of a source as MLflow has them, to load the data set from it again."""
    if origin is None:
        return "code", {"tags": {}}
    if origin.dataset:
        return "hugging_face", {
            "path": origin.dataset,
            "config_name": origin.config,
            "split": origin.split,
        }
    scheme = urlsplit(str(origin.path)).scheme
    if scheme in ("http", "https"):
        return "http", {"url": origin.path}
    return scheme or "local", {"uri": origin.path}
