"""The diagnosis as an evaluator of MLflow.

`mlflow.models.evaluate(..., model_type="ilp", evaluators="ilp")` finds it by its entry point.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow.models.evaluation.base import EvaluationArtifact, EvaluationResult, ModelEvaluator
from pydantic import Field, ValidationError, field_validator

from ilp_mlflow.core.config import (
    ScoringConfig,
    TokenizerConfig,
    expand_name_shorthand,
)
from ilp_mlflow.core.errors import ConfigError, DatasetError
from ilp_mlflow.core.interfaces import Context, GreedyAnswer
from ilp_mlflow.core.texts import Text
from ilp_mlflow.core.validation import describe_error
from ilp_mlflow.core.values import Checkpoint, Sample, Stage, Verdict, to_rows

# MLflow imports this module for every evaluation, whoever does it: what is heavy is imported inside
# functions.
if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd
    import pyarrow as pa


class Settings(ScoringConfig):
    """What `evaluator_config` may hold: the options of scoring, and these."""

    checkpoints: dict[str, str] | tuple[str, ...] = ()
    """Models to score under, name -> location, the base first.

    Of a table of scores, the names in order; left out, in the order of their appearance.
    """
    diagnostics: dict[str, dict[str, Any]] | None = None
    """Diagnostics to run, by plugin name, with their options; left out, all that are installed."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """Tokenizer and chat-template options."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seeds the choice of options."""

    _by_name = field_validator("diagnostics", mode="before")(expand_name_shorthand)


class SilentProbe:
    """The probe where there are no models: it answers nothing, which nan and "" stand for."""

    def logprobs(self, checkpoint: str, exchanges: Sequence[tuple[Text, Text]]) -> Sequence[float]:
        """One nan for each of `exchanges`."""
        return [float("nan")] * len(exchanges)

    def answer(
        self, checkpoint: str, prompts: Sequence[Text], max_new_tokens: int = 16
    ) -> Sequence[GreedyAnswer]:
        """An empty answer to each of `prompts`."""
        return [GreedyAnswer("", float("nan"))] * len(prompts)

    def embed(self, checkpoint: str, prompts: Sequence[Text]) -> npt.NDArray[np.float32]:
        """One nan for each of `prompts`."""
        import numpy as np

        return np.full((len(prompts), 1), np.nan, np.float32)

    def generate(self, checkpoint: str, prompts: Sequence[Text], n: int) -> Sequence[Sequence[str]]:
        """No continuation of any of `prompts`."""
        return [[] for _ in prompts]


@dataclass(frozen=True)
class EvaluationData:
    """The samples that are diagnosed, and their scores."""

    samples: Sequence[Sample]
    """Each once."""
    scores: pa.Table
    """Columns of `Score`."""
    judgements: pa.Table
    """Columns of `Judgement`."""
    locations: Mapping[str, str]
    """Where the models are, by checkpoint, the base first; "" for models that are not loaded."""


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
        """Log the diagnosis of `dataset` on the run and return it.

        See `Settings` for `evaluator_config`. With models among the settings a row is a sample:
        `prompt` and `completion` (or `messages`), and optionally `sample_id`, `stage`, `options`,
        `probes`, `source`. Without, a row is a sample under a checkpoint: the same, `sample_id`
        too, and a column for every field of `Score`; nothing is loaded then, and no model asked.

        The metrics are `unlearned_rate`, `cause/<name>` and `forgetting/<stage>`, shares of the
        samples that are scored, and `unscored`, the number of the others if there are any. The
        artifacts are `diagnosis` (all samples), `diagnoses` (unlearned ones, with evidence) and
        `diagnosis_table` (first rows, for the UI).

        Raises ConfigError for a `model` and for a setting that is unknown or does not fit,
        DatasetError for data that lacks a column, has a wrong value in one, or a row twice,
        PluginError, and ModelError, also when no sample is scored under the last checkpoint.
        """
        from ilp_mlflow.core import plugin_loader
        from ilp_mlflow.diagnosis.diagnose import diagnose_and_log
        from ilp_mlflow.tracking import runs

        settings = _read_settings(evaluator_config)
        # Left out, `checkpoints` is () and the data has scores; {} names no model to score with.
        if settings.checkpoints == {}:
            raise ConfigError(
                "evaluator_config: 'checkpoints' is empty; name models as {name: location}, "
                "the base first"
            )
        if model is not None:
            raise ConfigError(
                "evaluator 'ilp' loads models itself; leave out 'model' and give "
                "evaluator_config={'checkpoints': {name: location}}"
            )
        plugins = plugin_loader.configure("diagnostic", settings.diagnostics)
        data = _read_frame(dataset)
        if isinstance(settings.checkpoints, dict):
            scored = _score_samples(data, settings.checkpoints, settings)
            _check_any_scored(scored)
            runs.write(run_id, "scores.parquet", scored.scores)
            context = _context(scored, settings)
            lacking = "no ledger of training"
        else:
            scored = _read_scored_samples(data, settings.checkpoints, settings)
            _check_any_scored(scored)
            # Where nobody answers, nothing shows what the base believes.
            context = replace(_context(scored, settings), probe=SilentProbe(), beliefs=dict)
            lacking = "no model to ask and no ledger of training"
        note = f"there is {lacking}: causes that only show there are not looked for"
        print(f"ilp: {note}", file=sys.stderr)
        runs.log(run_id, tags={"ilp.lacking": note, "ilp.version": version("ilp-mlflow")})
        _, metrics = diagnose_and_log(run_id, plugins, context, scored.judgements, settings.preset)
        return EvaluationResult(metrics, _log_artifacts(run_id), run_id)


def _read_settings(evaluator_config: Mapping[str, Any]) -> Settings:
    """The settings: `evaluator_config` itself, or its part `ilp`. Raises ConfigError."""
    by_evaluator = set(evaluator_config) == {"ilp"}
    settings = evaluator_config["ilp"] if by_evaluator else evaluator_config
    try:
        return Settings.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(describe_error(error, Settings, "evaluator_config")) from None


def _read_frame(dataset: Any) -> pd.DataFrame:
    """All columns of an MLflow evaluation data set. Raises DatasetError when it has none."""
    import pandas as pd

    data = dataset.features_data
    if not isinstance(data, pd.DataFrame):
        raise DatasetError(
            "data must be a pandas DataFrame or an MLflow data set made of one, "
            f"got {type(data).__name__}"
        )
    # MLflow keeps the column of targets apart.
    if dataset.targets_name:
        return data.assign(**{dataset.targets_name: dataset.labels_data})
    return data


def _score_samples(
    data: pd.DataFrame, locations: Mapping[str, str], settings: Settings
) -> EvaluationData:
    """The samples of `data`, one a row, scored under models. Raises DatasetError and ModelError."""
    from ilp_mlflow.data.score_tables import read_samples
    from ilp_mlflow.scoring.checkpoints import choose_wrong_options
    from ilp_mlflow.scoring.judged import score_and_judge

    seed, tokenizer = settings.seed, settings.tokenizer
    samples = read_samples(data, once=True)
    wrong = choose_wrong_options(samples, locations, settings, seed, tokenizer)
    judged = score_and_judge(samples, wrong, locations, settings, seed, tokenizer)
    return EvaluationData(samples, judged.scores, judged.judgements, locations)


def _read_scored_samples(
    data: pd.DataFrame, checkpoints: Sequence[str], settings: Settings
) -> EvaluationData:
    """The samples and scores of a table of scores, of `checkpoints` only if some are named.

    Raises DatasetError, and ConfigError for a checkpoint that the table does not have.
    """
    from ilp_mlflow.data.score_tables import read_score_table
    from ilp_mlflow.scoring.verdicts.judgements import Evidence, judge, read_judges

    samples, scores = read_score_table(data, checkpoints)
    names = checkpoints or scores["checkpoint"].unique().to_pylist()
    evidence = Evidence(samples=samples)
    judgements = judge(scores, names, read_judges(settings), settings.seed, evidence)
    return EvaluationData(samples, scores, judgements, dict.fromkeys(names, ""))


def _check_any_scored(scored: EvaluationData) -> None:
    """Raise ModelError when no sample is scored under the last checkpoint."""
    from ilp_mlflow.scoring.verdicts.timeline import verdict_table
    from ilp_mlflow.scoring.verdicts.unscored import check_any_scored

    names = list(scored.locations)
    verdicts = to_rows(verdict_table(scored.judgements, names), Verdict)
    check_any_scored(verdicts, names[-1])


def _context(scored: EvaluationData, settings: Settings) -> Context:
    """All that is known of the samples, each stage with those that name it."""
    from ilp_mlflow.diagnosis.context import ScoredSamples

    samples_by_stage: dict[str, list[Sample]] = {}
    for sample in scored.samples:
        samples_by_stage.setdefault(sample.stage, []).append(sample)
    stages = [Stage(name=name, samples=tuple(rows)) for name, rows in samples_by_stage.items()]
    checkpoints = [Checkpoint(name=n, model_uri=uri) for n, uri in scored.locations.items()]
    return ScoredSamples(
        scored.samples,
        stages,
        checkpoints,
        scored.scores,
        scored.judgements,
        settings,
        settings.seed,
        settings.tokenizer,
    ).context


def _log_artifacts(run_id: str) -> dict[str, EvaluationArtifact]:
    """The logged diagnosis as MLflow wants it.

    Its table goes to the root of the run, too: only there MLflow looks for `tables`.
    """
    from mlflow.models.evaluation.artifacts import JsonEvaluationArtifact, ParquetEvaluationArtifact

    from ilp_mlflow.diagnosis.diagnose import UI_ROWS
    from ilp_mlflow.tracking import runs

    table = runs.read_table(run_id, "diagnosis.parquet")
    runs.write_ui_table(run_id, "diagnosis.json", table.slice(0, UI_ROWS), folder="")
    ui_table = json.loads(runs.read(run_id, "diagnosis.json"))
    diagnoses = json.loads(runs.read(run_id, "diagnoses.json"))
    root = mlflow.get_run(run_id).info.artifact_uri
    folder = f"{root}/{runs.FOLDER}"
    return {
        "diagnosis": ParquetEvaluationArtifact(f"{folder}/diagnosis.parquet", table.to_pandas()),
        "diagnoses": JsonEvaluationArtifact(f"{folder}/diagnoses.json", diagnoses),
        "diagnosis_table": JsonEvaluationArtifact(f"{root}/diagnosis.json", ui_table),
    }
