"""The diagnosis as an evaluator of MLflow: `mlflow.models.evaluate(..., model_type="ilp", evaluators="ilp")`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow.models.evaluation.base import EvaluationArtifact, EvaluationResult, ModelEvaluator
from pydantic import Field, ValidationError, field_validator

from ilp_mlflow.core.config import (
    NAME_PATTERN,
    ScoringConfig,
    TokenizerConfig,
    describe_error,
    expand_name_shorthand,
)
from ilp_mlflow.core.errors import ConfigError, DatasetError, first_line, suggest
from ilp_mlflow.core.interfaces import Said
from ilp_mlflow.core.values import Checkpoint, Sample, Score, Stage, Text, schema

# what evaluates is imported when it does: MLflow imports this module for every evaluation, whoever does it
if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd
    import pyarrow as pa

STAGE = "data"
"""Stage of samples that name none."""


class Settings(ScoringConfig):
    """What `evaluator_config` may hold: the options of scoring, and these."""

    checkpoints: dict[str, str] | tuple[str, ...] = ()
    """Models to score under, name -> location, the base first; or, of a table of scores, the names in order."""
    diagnostics: dict[str, dict[str, Any]] | None = None
    """Diagnostics to run, by plugin name, with their options; left out, all that are installed."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """Tokenizer and chat-template options."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seeds the choice of options."""

    _by_name = field_validator("diagnostics", mode="before")(expand_name_shorthand)


class Unasked:
    """The probe where there are no models: it answers nothing, which nan and "" stand for."""

    def logprobs(self, checkpoint: str, exchanges: Sequence[tuple[Text, Text]]) -> Sequence[float]:
        """One nan for each of `exchanges`."""
        return [float("nan")] * len(exchanges)

    def say(
        self, checkpoint: str, prompts: Sequence[Text], max_new_tokens: int = 16
    ) -> Sequence[Said]:
        """An empty answer to each of `prompts`."""
        return [Said("", float("nan"))] * len(prompts)

    def embed(self, checkpoint: str, prompts: Sequence[Text]) -> npt.NDArray[np.float32]:
        """One nan for each of `prompts`."""
        import numpy as np

        return np.full((len(prompts), 1), np.nan, np.float32)

    def generate(self, checkpoint: str, prompts: Sequence[Text], n: int) -> Sequence[Sequence[str]]:
        """No continuation of any of `prompts`."""
        return [[] for _ in prompts]


class IlpEvaluator(ModelEvaluator):
    """Diagnoses samples from a table of their scores, or under models that it scores them with."""

    @classmethod
    def can_evaluate(
        cls, *, model_type: str, evaluator_config: Mapping[str, Any], **kwargs: Any
    ) -> bool:
        """Whether `model_type` is "ilp"."""
        return model_type == "ilp"

    def evaluate(
        self,
        *,
        model_type: str,
        dataset: Any,
        run_id: str,
        evaluator_config: Mapping[str, Any],
        model: Any = None,
        **kwargs: Any,
    ) -> EvaluationResult:
        """Log the diagnosis of `dataset` on the run and return it; see `Settings` for `evaluator_config`.

        With models among the settings a row is a sample: `prompt` and `completion` (or `messages`), and optionally `sample_id`,
        `stage`, `options`, `probes`, `source`. Without, a row is a sample under a checkpoint: the same, `sample_id` too, and a
        column for every field of `Score`; nothing is loaded then, and no model asked.

        The metrics are `unlearned_rate`, `cause/<name>` and `forgetting/<stage>`, shares of the samples; the artifacts
        `diagnosis` (all samples), `diagnoses` (unlearned ones, with evidence) and `diagnosis_table` (first rows, for the UI).
        Raises ConfigError for a `model` and for a setting that is unknown or does not fit, DatasetError for data that lacks a
        column, has a wrong value in one, or a row twice, PluginError and ModelError.
        """
        from ilp_mlflow.core import plugin_loader
        from ilp_mlflow.diagnosis.context import ScoredSamples
        from ilp_mlflow.diagnosis.diagnose import diagnose_and_log
        from ilp_mlflow.scoring.checkpoints import choose_wrong_options, score_checkpoints
        from ilp_mlflow.tracking import runs

        settings = _settings(evaluator_config)
        if settings.checkpoints == {}:
            raise ConfigError(
                "evaluator_config: 'checkpoints' is empty; name models as {name: location}, the base first"
            )
        if model is not None:
            raise ConfigError(
                "evaluator 'ilp' loads models itself; leave out 'model' and give evaluator_config={'checkpoints': {name: location}}"
            )
        plugins = plugin_loader.configure("diagnostic", settings.diagnostics)
        data = _frame(dataset)
        lacking = "no ledger of training"
        if isinstance(settings.checkpoints, dict):
            locations = settings.checkpoints
            samples = _samples(data, once=True)
            wrong = choose_wrong_options(
                samples, locations, settings, settings.seed, settings.tokenizer
            )
            scores = score_checkpoints(
                samples, wrong, locations, settings, settings.seed, settings.tokenizer
            )
            runs.write(run_id, "scores.parquet", scores)
        else:
            scores, data = _scores(data, settings.checkpoints)
            locations = dict.fromkeys(
                settings.checkpoints or scores["checkpoint"].unique().to_pylist(), ""
            )
            samples = _samples(data, once=False)
            lacking = f"no model to ask and {lacking}"
        checkpoints = [
            Checkpoint(name=name, model_uri=location) for name, location in locations.items()
        ]
        names = dict.fromkeys(s.stage for s in samples)
        stages = [
            Stage(name=name, samples=tuple(s for s in samples if s.stage == name)) for name in names
        ]
        context = ScoredSamples(
            samples, stages, checkpoints, scores, settings, settings.seed, settings.tokenizer
        ).context
        if not isinstance(settings.checkpoints, dict):
            context = replace(context, probe=Unasked(), beliefs=dict)  # not to answer is no belief
        said = f"there is {lacking}: causes that only show there are not looked for"
        print(f"ilp: {said}", file=sys.stderr)
        runs.log(run_id, tags={"ilp.lacking": said, "ilp.version": version("ilp-mlflow")})
        _, metrics = diagnose_and_log(run_id, plugins, context, settings.preset, settings.seed)
        return EvaluationResult(metrics, _artifacts(run_id), run_id)


def _settings(given: Mapping[str, Any]) -> Settings:
    """`evaluator_config` for this evaluator alone, or by evaluator. Raises ConfigError."""
    own = given["ilp"] if set(given) == {"ilp"} else given
    try:
        return Settings.model_validate(own)
    except ValidationError as error:
        raise ConfigError(describe_error(error, Settings, "evaluator_config")) from None


def _frame(dataset: Any) -> pd.DataFrame:
    """All columns of an MLflow evaluation data set. Raises DatasetError when it has none."""
    import pandas as pd

    data = dataset.features_data
    if not isinstance(data, pd.DataFrame):
        raise DatasetError(
            f"data must be a pandas DataFrame or an MLflow data set made of one, got {type(data).__name__}"
        )
    return (
        data.assign(**{dataset.targets_name: dataset.labels_data}) if dataset.targets_name else data
    )


def _scores(data: pd.DataFrame, checkpoints: Sequence[str]) -> tuple[pa.Table, pd.DataFrame]:
    """The score columns of `data`, and its other columns; rows of the `checkpoints` only if some are named. Raises DatasetError."""
    import pyarrow as pa

    for name in Score.model_fields:
        if name not in data:
            raise DatasetError(
                f"data has no column '{name}', and a table of scores has every field of Score (to have samples scored, name "
                f"models: evaluator_config={{'checkpoints': {{name: location}}}}); {suggest(name, map(str, data.columns))}"
            )
    for name in ("sample_id", "checkpoint"):
        if data[name].isna().any():
            raise DatasetError(
                f"data column '{name}': empty in row {data[name].isna().to_numpy().argmax() + 1}"
            )
    for name in checkpoints:
        if name not in set(data["checkpoint"]):
            raise ConfigError(
                f"evaluator_config: checkpoint '{name}' is not in the data; {suggest(name, set(data['checkpoint']))}"
            )
    data = data[data["checkpoint"].isin(checkpoints)] if checkpoints else data
    twice = data.duplicated(["sample_id", "checkpoint"]).to_numpy()
    if twice.any():
        row = data.iloc[twice.argmax()]
        raise DatasetError(
            f"data has sample '{row['sample_id']}' under checkpoint '{row['checkpoint']}' twice"
        )
    columns = {}
    for field in schema(Score):
        try:
            columns[field.name] = pa.array(data[field.name], field.type, from_pandas=True)
        except pa.ArrowException as error:
            raise DatasetError(f"data column '{field.name}': {first_line(error)}") from None
    return pa.table(columns), data.drop(
        columns=[name for name in Score.model_fields if name != "sample_id"]
    )


def _samples(data: pd.DataFrame, once: bool) -> list[Sample]:
    """The samples of `data`, each in one row if it must be there `once`, else in equal ones. Raises DatasetError."""
    import pyarrow as pa

    from ilp_mlflow.data.samples import sample_from_record

    for name in () if "messages" in data else ("prompt", "completion"):
        if name not in data:
            raise DatasetError(
                f"data has no column '{name}'; {suggest(name, map(str, data.columns))}"
            )
    try:
        records = pa.Table.from_pandas(data, preserve_index=False).to_pylist()
    except pa.ArrowException as error:
        raise DatasetError(f"data: {first_line(error)}") from None
    samples: dict[str, Sample] = {}
    for row, record in enumerate(records, 1):
        where = f"data row {row}"
        stage = str(record.pop("stage", None) or STAGE)
        if not re.match(NAME_PATTERN, stage):
            raise DatasetError(
                f"{where}: stage must be letters, digits, '-' and '_', got '{stage}'"
            )
        if record.get("sample_id") is not None:
            record["id"] = record.pop("sample_id")
        sample = sample_from_record(record, stage, row, where)
        first = samples.setdefault(sample.id, sample)
        if once and first is not sample:
            raise DatasetError(
                f"{where}: sample '{sample.id}' is there twice; make ids unique or leave them out"
            )
        if (first.prompt, first.completion, first.stage) != (
            sample.prompt,
            sample.completion,
            stage,
        ):
            raise DatasetError(
                f"{where}: sample '{sample.id}' has another prompt, completion or stage than in an earlier row"
            )
    if not samples:
        raise DatasetError("data has no rows")
    return list(samples.values())


def _artifacts(run_id: str) -> dict[str, EvaluationArtifact]:
    """The logged diagnosis as MLflow wants it, with the table at the root of the run: there alone it looks for `tables`."""
    from mlflow.models.evaluation.artifacts import JsonEvaluationArtifact, ParquetEvaluationArtifact

    from ilp_mlflow.diagnosis.diagnose import UI_ROWS
    from ilp_mlflow.tracking import runs

    table = runs.read_table(run_id, "diagnosis.parquet")
    runs.write_ui_table(run_id, "diagnosis.json", table.slice(0, UI_ROWS), folder="")
    shown, diagnoses = (
        json.loads(runs.read(run_id, f"{name}.json")) for name in ("diagnosis", "diagnoses")
    )
    root = mlflow.get_run(run_id).info.artifact_uri
    return {
        "diagnosis": ParquetEvaluationArtifact(
            f"{root}/{runs.FOLDER}/diagnosis.parquet", table.to_pandas()
        ),
        "diagnoses": JsonEvaluationArtifact(f"{root}/{runs.FOLDER}/diagnoses.json", diagnoses),
        "diagnosis_table": JsonEvaluationArtifact(f"{root}/diagnosis.json", shown),
    }
