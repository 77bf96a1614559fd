"""Reads samples, and their scores under checkpoints, from the columns of a pandas table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ilp_mlflow.core.config import NAME_PATTERN
from ilp_mlflow.core.errors import ConfigError, DatasetError, first_line, suggest
from ilp_mlflow.core.finite_scores import unscore_nonfinite
from ilp_mlflow.core.texts import Text
from ilp_mlflow.core.values import Sample, Score, schema
from ilp_mlflow.data.samples import sample_from_record

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

DEFAULT_STAGE = "data"
"""Stage of samples that name none."""


def read_score_table(
    data: pd.DataFrame, checkpoints: Sequence[str] = ()
) -> tuple[list[Sample], pa.Table]:
    """The samples and the scores (columns of `Score`) of rows that are a sample under a checkpoint.

    A row has every field of `Score`, and the fields of its sample; one with a number that is not
    finite is unscored. If `checkpoints` are named,
    rows of others are left out. Raises DatasetError for a column that is missing, a value of
    another type and a row that is there twice, ConfigError for a checkpoint that no row is of.
    """
    _check_columns(data)
    data = _rows_of(data, checkpoints)
    scores = _read_scores(data)
    score_columns = [name for name in Score.model_fields if name != "sample_id"]
    return read_samples(data.drop(columns=score_columns), once=False), scores


def _check_columns(data: pd.DataFrame) -> None:
    """Raise DatasetError where a column of scores is missing, or a row says not what it is of."""
    for name in Score.model_fields:
        if name not in data:
            raise DatasetError(
                f"data has no column '{name}', and a table of scores has every field of Score "
                "(to have samples scored, name models: evaluator_config={'checkpoints': "
                f"{{name: location}}}}); {suggest(name, map(str, data.columns))}"
            )
    for name in ("sample_id", "checkpoint"):
        empty = data[name].isna().to_numpy()
        if empty.any():
            raise DatasetError(f"data column '{name}': empty in row {empty.argmax() + 1}")


def _rows_of(data: pd.DataFrame, checkpoints: Sequence[str]) -> pd.DataFrame:
    """The rows of `checkpoints`, of all where none is named; each sample is in one row of each."""
    known = set(data["checkpoint"])
    for name in checkpoints:
        if name not in known:
            raise ConfigError(
                f"evaluator_config: checkpoint '{name}' is not in the data; {suggest(name, known)}"
            )
    if checkpoints:
        data = data[data["checkpoint"].isin(checkpoints)]
    repeated = data.duplicated(["sample_id", "checkpoint"]).to_numpy()
    if repeated.any():
        row = data.iloc[repeated.argmax()]
        raise DatasetError(
            f"data has sample '{row['sample_id']}' under checkpoint '{row['checkpoint']}' twice"
        )
    return data


def _read_scores(data: pd.DataFrame) -> pa.Table:
    """The columns of `Score`. Raises DatasetError for a value of another type."""
    import pyarrow as pa

    columns = {}
    for field in schema(Score):
        try:
            columns[field.name] = pa.array(data[field.name], field.type, from_pandas=True)
        except pa.ArrowException as error:
            raise DatasetError(f"data column '{field.name}': {first_line(error)}") from None
    return unscore_nonfinite(pa.table(columns))


def read_samples(data: pd.DataFrame, once: bool) -> list[Sample]:
    """The samples of `data`: each in one row if it must be there `once`, else in equal ones.

    Raises DatasetError.
    """
    import pyarrow as pa

    # A conversation holds both.
    required = () if "messages" in data else ("prompt", "completion")
    for name in required:
        if name not in data:
            raise DatasetError(
                f"data has no column '{name}'; {suggest(name, map(str, data.columns))}"
            )
    try:
        records = pa.Table.from_pandas(data, preserve_index=False).to_pylist()
    except pa.ArrowException as error:
        raise DatasetError(f"data: {first_line(error)}") from None
    # Of equal rows the first is kept: they differ in their checkpoint alone.
    samples: dict[str, Sample] = {}
    for row, record in enumerate(records, 1):
        sample = _read_sample(record, row)
        first = samples.setdefault(sample.id, sample)
        if once and first is not sample:
            raise DatasetError(
                f"data row {row}: sample '{sample.id}' is there twice; make ids unique or leave "
                "them out"
            )
        if _what_is_trained(first) != _what_is_trained(sample):
            raise DatasetError(
                f"data row {row}: sample '{sample.id}' has another prompt, completion or stage "
                "than in an earlier row"
            )
    if not samples:
        raise DatasetError("data has no rows")
    return list(samples.values())


def _read_sample(record: dict[str, Any], row: int) -> Sample:
    """The sample of one row, counted from 1. Raises DatasetError."""
    where = f"data row {row}"
    stage = str(record.pop("stage", None) or DEFAULT_STAGE)
    if not re.match(NAME_PATTERN, stage):
        raise DatasetError(f"{where}: stage must be letters, digits, '-' and '_', got '{stage}'")
    if record.get("sample_id") is not None:
        record["id"] = record.pop("sample_id")
    return sample_from_record(record, stage, row, where)


def _what_is_trained(sample: Sample) -> tuple[Text, Text, str]:
    return sample.prompt, sample.completion, sample.stage
