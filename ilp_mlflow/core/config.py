"""An experiment as written in YAML, checked before anything is trained."""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from ilp_mlflow.core.errors import ConfigError
from ilp_mlflow.core.validation import describe_error
from ilp_mlflow.core.values import Sample, Stage, Value

C = typing.TypeVar("C", bound="Value")
LAB_PREFIX = "lab:"
"""How the location of a file begins that the lab makes, see `ilp_mlflow.lab.files`."""
REMOTE_URI = re.compile(r"[a-z][a-z0-9+.-]+:/")
"""How the location of a file begins that MLflow fetches, see `ilp_mlflow.dataset.load`."""
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"


class DataConfig(Value):
    """Where a stage's rows come from. `data: rows.jsonl` is short for `data: {path: rows.jsonl}`."""

    path: str | None = None
    """JSONL, CSV or Parquet file, or a folder written by `datasets.save_to_disk`; relative to the experiment file.

    Or where MLflow finds such a one: `runs:/ID/rows.jsonl`, `mlflow-artifacts:/...`, `s3://...`, `https://...`; or `runs:/ID`
    alone: the data set that was logged as that run's input."""
    dataset: str | None = None
    """Or a data set on the Hugging Face Hub: `owner/name`."""
    config: str | None = None
    """Configuration of the Hub data set."""
    split: str = "train"
    """Split of the data set."""
    where: dict[str, Any] = Field(default_factory=dict)
    """Keep only the rows whose fields have these values."""
    limit: int | None = Field(default=None, ge=1)
    """Keep only so many rows, from the top."""

    @model_validator(mode="after")
    def _one_origin(self) -> DataConfig:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("give either 'path' or 'dataset'")
        return self


def resolve_location(path: str, folder: Path) -> str:
    """The location of a file with a path relative to `folder` made absolute; one that MLflow or the lab finds as it is."""
    return (
        path
        if path.startswith(LAB_PREFIX) or REMOTE_URI.match(path)
        else str(folder / Path(path).expanduser())
    )


def expand_path_shorthand(value: Any) -> Any:
    """Data given as a path alone, in the form with fields; anything else as it is."""
    return {"path": value} if isinstance(value, str) else value


class StageConfig(Value):
    """One stage: data, training options, order."""

    name: str = Field(pattern=NAME_PATTERN)
    """Letters, digits, `-` and `_`: it becomes part of a registered model's name."""
    data: DataConfig
    """The rows to train on."""
    training: dict[str, Any] = Field(default_factory=dict)
    """Any option of `trl.SFTConfig`."""
    peft: dict[str, Any] | None = None
    """Any option of `peft.LoraConfig`; left out, all weights are trained."""
    adapter: Literal["continue", "new"] = "continue"
    """With `peft`: go on with the parent's adapter, or merge it and start a new one."""
    schedule: Literal["shuffled", "sequential"] = "shuffled"
    """Order of the samples within the stage."""
    score_every: int | None = Field(default=None, ge=1)
    """Also keep and score a checkpoint every so many optimizer steps."""

    _path = field_validator("data", mode="before")(expand_path_shorthand)

    def as_stage(self, samples: Sequence[Sample], seed: int) -> Stage:
        """The stage with its data in place, and `seed` unless it has one of its own."""
        options = self.model_dump(exclude={"data"})
        return Stage(
            **{**options, "training": {"seed": seed, **self.training}}, samples=tuple(samples)
        )


class TokenizerConfig(Value):
    """How samples become text for the model."""

    chat_template: str | None = None
    """Jinja file that replaces the model's own chat template; relative to the experiment file."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Variables for the chat template, such as `enable_thinking: false`."""
    eos_token: str | None = None
    """Token that ends a completion, in place of the tokenizer's own."""


class ScoringConfig(Value):
    """How samples are scored and judged."""

    preset: Literal["default", "paper"] = "default"
    """The rule that turns scores into verdicts, see docs/method.md."""
    options: int = Field(default=3, ge=0)
    """Wrong options chosen for a sample that gives none."""
    batch_tokens: int = Field(default=2048, ge=1)
    """Tokens per forward pass, padding included."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps`."""
    dtype: Literal["float32", "bfloat16", "mixed"] = "float32"
    """Precision of the forward pass; `bfloat16` leaves more verdicts uncertain, `mixed` decides those again in float32."""

    asked: int = Field(default=2000, ge=1)
    """Unlearned samples the models are asked about, drawn at random where there are more: asking is what takes time."""

    writer: str | None = None
    """MLflow judge model URI, such as `openai:/gpt-4.1-mini`, that words prompts otherwise where other rows do not show how; one
    call per sample."""

    @property
    def first_dtype(self) -> Literal["float32", "bfloat16"]:
        """The precision in which all samples are scored and models are asked."""
        return "float32" if self.dtype == "float32" else "bfloat16"


class TrackingConfig(Value):
    """Where results go."""

    uri: str | None = None
    """MLflow tracking URI; left out, MLFLOW_TRACKING_URI or MLflow's own default."""
    experiment: str | None = None
    """MLflow experiment; left out, the experiment's name."""


def expand_name_shorthand(value: Any) -> Any:
    """Plugins given as a list of names, or without options, in the form name -> options; anything else as it is."""
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return {name: {} for name in value}
    return {k: v or {} for k, v in value.items()} if isinstance(value, dict) else value


class Experiment(Value):
    """A whole experiment."""

    name: str = Field(pattern=NAME_PATTERN)
    """Stages are registered as `<name>.<stage>`."""
    model: str
    """Hub id, local folder (safetensors, or one GGUF file) or MLflow URI."""
    stages: tuple[StageConfig, ...] = Field(min_length=1)
    """Trained one after the other."""
    held_out: DataConfig | None = None
    """Rows that no stage trains: what a mitigation breaks shows in them."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """Tokenizer and chat-template options."""
    scoring: ScoringConfig = ScoringConfig()
    """Scoring options."""
    diagnostics: dict[str, dict[str, Any]] | None = None
    """Diagnostics to run, by plugin name, with their options; left out, all that are installed."""
    mitigations: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Mitigations to try, by plugin name, with their options."""
    tracking: TrackingConfig = TrackingConfig()
    """Where results go."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seeds training, schedules and options."""
    launch: Literal["inline", "project"] = "inline"
    """Train the stages in this process, or each as an MLflow project run."""
    backend: str = "local"
    """MLflow Projects backend for `launch: project`."""
    backend_config: dict[str, Any] = Field(default_factory=dict)
    """Configuration of that backend."""

    _by_path = field_validator("held_out", mode="before")(expand_path_shorthand)
    _by_name = field_validator("diagnostics", "mitigations", mode="before")(expand_name_shorthand)

    @model_validator(mode="after")
    def _stages_fit(self) -> Experiment:
        names = [stage.name for stage in self.stages]
        for name in names:
            if name in ("base", "latest") or names.count(name) > 1:
                raise ValueError(
                    f"stage name '{name}' is {'given twice' if names.count(name) > 1 else 'reserved'}"
                )
        for before, stage in zip(self.stages, self.stages[1:], strict=False):
            if (
                before.peft
                and stage.peft
                and stage.adapter == "continue"
                and stage.peft != before.peft
            ):
                raise ValueError(
                    f"stage '{stage.name}' continues the adapter of '{before.name}' with other peft options; "
                    "make them equal, or set adapter: new"
                )
        return self


class _UniqueKeys(yaml.SafeLoader):
    """YAML as usual, but a key given twice is an error instead of the last one winning."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key '{key.value}' is given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# YAML 1.1 reads 2e-4 as text; everyone who writes it means the number
_UniqueKeys.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


class Seed(Value):
    """A seed given on the command line."""

    seed: int = Field(default=0, ge=0)
    """Seeds the choice of options."""


def parse_parameters(model: type[C], given: Mapping[str, Any]) -> C:
    """Command-line parameters as a configuration value; "" leaves a default. Raises ConfigError when one does not fit."""
    try:
        return model.model_validate({name: value for name, value in given.items() if value != ""})
    except ValidationError as error:
        raise ConfigError(describe_error(error, model, "command line", given)) from None


def read(
    path: str | Path,
    overrides: Mapping[str, str] | None = None,
    data: Mapping[str, str] | None = None,
) -> Experiment:
    """Read an experiment file and resolve its relative paths against its folder.

    `overrides` are top-level parameters as strings (`model`, `seed`, `launch`); "" leaves the file's value. `data` are
    data files by stage, relative to the current folder, in place of the stages' own.
    Raises ConfigError when the file is missing, not YAML, or does not fit `Experiment`.
    """
    path = Path(path)
    if path.suffix in (".jsonl", ".csv", ".parquet"):
        raise ConfigError(
            f"{path}: these are rows; an experiment's file is YAML and names them as the data of a stage"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise ConfigError(
            f"{path}: {reason}; give the path of an experiment file such as experiments/smollm2.yaml"
        ) from None
    experiment = parse(text, path, {k: v for k, v in (overrides or {}).items() if v})
    files = {
        name: DataConfig(path=resolve_location(file, Path.cwd()))
        for name, file in (data or {}).items()
    }
    stages = tuple(
        s.model_copy(update={"data": files.get(s.name, s.data)}) for s in experiment.stages
    )
    return experiment.model_copy(update={"stages": stages})


def parse(text: str, path: Path, overrides: Mapping[str, str] | None = None) -> Experiment:
    """The experiment in `text`, read from `path`, with `overrides` set on top. Raises ConfigError, see `read`."""
    try:
        raw = yaml.load(text, _UniqueKeys)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path} line {mark.line + 1}" if mark else str(path)
        raise ConfigError(
            f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}"
        ) from None
    if not isinstance(raw, dict):
        raise ConfigError(
            f"{path}: expected a mapping with 'name', 'model' and 'stages', got {type(raw).__name__}"
        )
    raw |= overrides or {}
    try:
        experiment = Experiment.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(describe_error(error, Experiment, str(path), overrides)) from None
    return _absolute(experiment, path.resolve().parent)


def _absolute(experiment: Experiment, folder: Path) -> Experiment:
    """Paths of the experiment made absolute; a model is a path only when such a folder exists."""

    def located(data: DataConfig) -> DataConfig:
        return (
            data.model_copy(update={"path": resolve_location(data.path, folder)})
            if data.path
            else data
        )

    def options(value: Any) -> Any:
        """Options of plugins in which a `path` that is there beside the experiment's file is meant as such."""
        if not isinstance(value, dict):
            return value
        found = {key: options(one) for key, one in value.items()}
        path = found.get("path")
        beside = (
            folder / Path(path).expanduser()
            if isinstance(path, str) and not path.startswith(LAB_PREFIX)
            else None
        )
        return {**found, "path": str(beside)} if beside and beside.exists() else found

    template = experiment.tokenizer.chat_template
    model = folder / Path(experiment.model).expanduser()
    return experiment.model_copy(
        update={
            "stages": tuple(
                s.model_copy(update={"data": located(s.data)}) for s in experiment.stages
            ),
            "mitigations": options(experiment.mitigations),
            "held_out": located(experiment.held_out) if experiment.held_out else None,
            "tokenizer": experiment.tokenizer.model_copy(
                update={"chat_template": str(folder / template) if template else None}
            ),
            "model": str(model) if model.is_dir() else experiment.model,
        }
    )


def is_lab(experiment: Experiment) -> bool:
    """Whether the lab makes any of the experiment's files."""
    return any(
        str(x).startswith(LAB_PREFIX)
        for x in (experiment.model, *(s.data.path for s in experiment.stages))
    )


def lab_size(experiment: Experiment) -> str:
    """The size of the lab that makes the experiment's files: the part of a location between `LAB` and the slash."""
    places = (experiment.model, *(s.data.path or "" for s in experiment.stages))
    return (
        next(x for x in places if x.startswith(LAB_PREFIX))
        .removeprefix(LAB_PREFIX)
        .partition("/")[0]
    )


def dump(experiment: Experiment) -> str:
    """The experiment as YAML, defaults left out."""
    return yaml.safe_dump(
        experiment.model_dump(mode="json", exclude_defaults=True), sort_keys=False
    )
