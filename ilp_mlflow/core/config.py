"""An experiment as written in YAML, checked before anything is trained."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError, field_validator, model_validator

from ilp_mlflow.core.errors import ConfigError, suggest
from ilp_mlflow.core.strict_yaml import dump_yaml, load_yaml
from ilp_mlflow.core.validation import describe_error
from ilp_mlflow.core.value import Value
from ilp_mlflow.core.values import Sample, Stage

V = TypeVar("V", bound=Value)

LAB_PREFIX = "lab:"
"""Start of the location of a file that the lab makes, see `ilp_mlflow.lab.data_files`."""
REMOTE_URI = re.compile(r"[a-z][a-z0-9+.-]+:/")
"""Start of the location of a file that MLflow fetches, see `ilp_mlflow.data.readers`."""
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
"""Names of experiments and stages, by which models are registered."""
DATA_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".gz")
"""Endings of files with rows, which are no experiments."""
ROW_FIELDS = (
    "id",
    "prompt",
    "completion",
    "messages",
    "text",
    "tools",
    "chat_template_kwargs",
    "system",
    "instruction",
    "input",
    "output",
    "history",
    "label",
    "images",
    "videos",
    "audios",
    "options",
    "probes",
    "paraphrases",
    "source",
)
"""Fields of a row that a column can be named for, see `DataConfig.fields`."""
TURN_FIELDS = (
    "role",
    "content",
    "name",
    "weight",
    "reasoning_content",
    "tool_calls",
    "tool_call_id",
)
"""Fields of a turn of a conversation that can be named the same way."""
RESERVED_STAGE_NAMES = ("base", "latest")
"""Names that checkpoints and model versions have of their own."""


class DataConfig(Value):
    """Where a stage's rows come from. `data: rows.jsonl` stands for `data: {path: rows.jsonl}`."""

    path: str | None = None
    """JSONL (also `.jsonl.gz`), JSON, CSV or Parquet file, a folder or pattern of such files
    (`rows/*.jsonl`), or a folder written by `datasets.save_to_disk`; relative to the experiment
    file. `dataset_info.json#NAME` is a data set as LLaMA-Factory lists it.

    Or where MLflow finds such a one: `runs:/ID/rows.jsonl`, `mlflow-artifacts:/...`, `s3://...`,
    `https://...`; or `runs:/ID` alone: the data set that was logged as that run's input."""
    dataset: str | None = None
    """Or a data set on the Hugging Face Hub: `owner/name`."""
    config: str | None = None
    """Configuration of the Hub data set."""
    split: str = "train"
    """Split of the data set, on the Hub or in a folder with several."""
    format: Literal["trl", "alpaca", "alpaca_prompt", "sharegpt", "openai", "text"] | None = None
    """How rows are written, see docs/data.md; left out, they are recognised by their fields."""
    fields: dict[str, str] = Field(default_factory=dict)
    """Columns that have another name than the field they are, by field: `{prompt: question,
    completion: answer}`; `""` for a field that is not to be read. Of turns, too: `{role: from,
    content: value}`."""
    roles: dict[str, str] = Field(default_factory=dict)
    """What the roles of turns are, where they have names of their own: `{customer: user, agent:
    assistant}`."""
    where: dict[str, Any] = Field(default_factory=dict)
    """Keep only the rows whose fields have these values."""
    limit: int | None = Field(default=None, ge=1)
    """Keep only so many rows, from the top."""

    @field_validator("fields", mode="before")
    @classmethod
    def _as_typed(cls, value: Any) -> Any:
        return _parse_assignments(value) if isinstance(value, str) else value

    @field_validator("fields")
    @classmethod
    def _known_fields(cls, fields: dict[str, str]) -> dict[str, str]:
        known = (*ROW_FIELDS, *TURN_FIELDS)
        for name, column in fields.items():
            if name not in known:
                hint = suggest(name, known)
                if column in known:
                    hint = f"a field comes first, then its column: {column}={name}"
                raise ValueError(f"'{name}' is no field of a row; {hint}")
        return fields

    @model_validator(mode="after")
    def _one_origin(self) -> DataConfig:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("give either 'path' or 'dataset'")
        return self


def _parse_assignments(text: str) -> dict[str, str]:
    """`prompt=question,completion=answer` as columns by field."""
    columns = {}
    for assignment in text.split(","):
        name, equals, column = (part.strip() for part in assignment.partition("="))
        if not (name and equals):
            raise ValueError(
                "write FIELD=COLUMN,..., for example prompt=question,completion=answer"
            )
        if name in columns:
            raise ValueError(f"field '{name}' is given twice")
        columns[name] = column
    return columns


def expand_path_shorthand(value: Any) -> Any:
    """`{"path": value}` for data given as a path alone; anything else as it is."""
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
        """The stage with its samples, trained with `seed` unless `training` sets one."""
        training = {"seed": seed, **self.training}
        return Stage(
            name=self.name,
            samples=tuple(samples),
            training=training,
            peft=self.peft,
            adapter=self.adapter,
            schedule=self.schedule,
            score_every=self.score_every,
        )


class TokenizerConfig(Value):
    """How samples become text for the model."""

    chat_template: str | None = None
    """Jinja file that replaces the model's own chat template; relative to the experiment file."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Variables for the chat template, such as `enable_thinking: false`."""
    eos_token: str | None = None
    """Token that ends a completion, in place of the tokenizer's own."""


ALL_ROWS = "all"
"""In place of a source or stage: the rows of any."""


class ScoringConfig(Value):
    """How samples are scored and judged."""

    preset: Literal["default", "paper"] = "default"
    """`paper` judges all rows, and explains them, by the study's own tests; see docs/method.md."""
    verdicts: dict[str, dict[str, dict[str, Any]]] = Field(default_factory=dict)
    """Rules of verdicts with their options, by the source or stage of the rows they judge (`all`
    for any), or one for all, such as `verify:math`; left out, `greedy` judges answers of fewer
    than 64 tokens, and `long` the others."""
    options: int = Field(default=3, ge=0)
    """Wrong options chosen for a sample that gives none."""
    batch_tokens: int = Field(default=2048, ge=1)
    """Tokens per forward pass, padding included."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps`."""
    dtype: Literal["float32", "bfloat16", "mixed"] = "float32"
    """Precision of the forward pass; `bfloat16` leaves more verdicts uncertain, `mixed` decides
    those again in float32."""
    asked: int = Field(default=2000, ge=1)
    """Unlearned samples the models are asked about, drawn at random where there are more: asking is
    what takes time."""
    writer: str | None = None
    """MLflow judge model URI, such as `openai:/gpt-4.1-mini`, that words prompts otherwise where
    other rows do not show how; one call per sample."""

    @field_validator("verdicts", mode="before")
    @classmethod
    def _by_group(cls, value: Any) -> Any:
        """`gsm8k: long` for `gsm8k: {long: {}}`, rules without options, one rule for all rows."""
        if isinstance(value, str):
            rule, _, check = value.partition(":")
            return {ALL_ROWS: {rule: {"check": check} if check else {}}}
        if not isinstance(value, dict):
            return value
        rules_by_group = {}
        for group, named in value.items():
            rules = {named: {}} if isinstance(named, str) else expand_name_shorthand(named)
            rules_by_group[group] = rules
        return rules_by_group

    @model_validator(mode="after")
    def _one_way_to_judge(self) -> ScoringConfig:
        if self.preset == "paper" and self.verdicts:
            raise ValueError("preset 'paper' judges all rows; leave it or 'verdicts' out")
        return self

    @field_validator("verdicts")
    @classmethod
    def _one_rule_each(
        cls, value: dict[str, dict[str, dict[str, Any]]]
    ) -> dict[str, dict[str, dict[str, Any]]]:
        for group, rules in value.items():
            if len(rules) != 1:
                raise ValueError(f"'{group}' must name one rule, not {len(rules)}")
        return value

    @property
    def first_dtype(self) -> Literal["float32", "bfloat16"]:
        """The precision in which all samples are scored first, and models are asked."""
        return "float32" if self.dtype == "float32" else "bfloat16"


class TrackingConfig(Value):
    """Where results go."""

    uri: str | None = None
    """MLflow tracking URI; left out, MLFLOW_TRACKING_URI or MLflow's own default."""
    experiment: str | None = None
    """MLflow experiment; left out, the experiment's name."""


def expand_name_shorthand(value: Any) -> Any:
    """Options by plugin name, where a list of names or a name without options is given.

    Anything else is left to the validation of the field.
    """
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return {name: {} for name in value}
    if isinstance(value, dict):
        # in YAML, a name with nothing behind its colon has the value None
        return {name: options or {} for name, options in value.items()}
    return value


DEFAULT_MAX_WRONG = 0.1
"""Share 0..1 of the named causes that may be wrong, where nothing else is asked for."""


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
    max_wrong: float = Field(default=DEFAULT_MAX_WRONG, gt=0, lt=1)
    """Share of the named causes that may be wrong, as measured in the labs: a sample for which no
    cause is as sure as that takes is unexplained."""
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
    def _stage_names_fit(self) -> Experiment:
        # a run's checkpoints, and the versions of its models, are told apart by these names
        names = [stage.name for stage in self.stages]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"stage name '{name}' is given twice")
            if name in RESERVED_STAGE_NAMES:
                raise ValueError(f"stage name '{name}' is reserved")
        return self

    @model_validator(mode="after")
    def _adapters_fit(self) -> Experiment:
        # a continued adapter has the rank and the layers that its parent gave it
        for parent, stage in zip(self.stages, self.stages[1:], strict=False):
            continues = parent.peft and stage.peft and stage.adapter == "continue"
            if continues and stage.peft != parent.peft:
                raise ValueError(
                    f"stage '{stage.name}' continues the adapter of '{parent.name}' with other "
                    "peft options; make them equal, or set adapter: new"
                )
        return self


class Seed(Value):
    """A seed given on the command line."""

    seed: int = Field(default=0, ge=0)
    """Seeds the choice of options."""


def parse_parameters(model: type[V], parameters: Mapping[str, Any]) -> V:
    """Command-line parameters as a configuration value; "" leaves a default.

    Raises ConfigError when a parameter is unknown to `model` or does not fit it.
    """
    fields = {name: value for name, value in parameters.items() if value != ""}
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(describe_error(error, model, "command line", parameters)) from None


def read(
    path: str | Path,
    overrides: Mapping[str, str] | None = None,
    data: Mapping[str, str] | None = None,
) -> Experiment:
    """Read an experiment file and resolve its relative paths against its folder.

    `overrides` are top-level parameters as strings (`model`, `seed`, `launch`); "" leaves the
    file's value. `data` are data files by stage, relative to the current folder, in place of the
    stages' own.

    Raises ConfigError when the file is missing, not YAML, or does not fit `Experiment`.
    """
    path = Path(path)
    values = {name: value for name, value in (overrides or {}).items() if value}
    experiment = parse(_read_text(path), path, values)
    return _with_data(experiment, data or {})


def _read_text(path: Path) -> str:
    """The text of an experiment file. Raises ConfigError when there is none."""
    if path.suffix in DATA_SUFFIXES:
        raise ConfigError(
            f"{path}: these are rows; an experiment's file is YAML and names them as the data of "
            "a stage"
        )
    hint = "give the path of an experiment file such as experiments/smollm2.yaml"
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text; {hint}") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; {hint}") from None


def _with_data(experiment: Experiment, data: Mapping[str, str]) -> Experiment:
    """The experiment with other data files, by stage, relative to the current folder."""
    stages = []
    for stage in experiment.stages:
        if stage.name in data:
            # typed by the user, it starts where the user is, not where the file lies
            location = resolve_location(data[stage.name], Path.cwd())
            stage = stage.model_copy(update={"data": DataConfig(path=location)})
        stages.append(stage)
    return experiment.model_copy(update={"stages": tuple(stages)})


def parse(text: str, path: Path, overrides: Mapping[str, str] | None = None) -> Experiment:
    """The experiment in `text`, read from `path`, with `overrides` set on top.

    Raises ConfigError when `text` is not YAML or does not fit `Experiment`.
    """
    fields = load_yaml(text, path)
    if not isinstance(fields, dict):
        raise ConfigError(
            f"{path}: expected a mapping with 'name', 'model' and 'stages', "
            f"got {type(fields).__name__}"
        )
    # before validation, which turns the texts of the command line into numbers
    fields.update(overrides or {})
    try:
        experiment = Experiment.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(describe_error(error, Experiment, str(path), overrides)) from None
    return _absolute(experiment, path.resolve().parent)


def dump(experiment: Experiment) -> str:
    """The experiment as YAML, defaults left out."""
    return dump_yaml(experiment.model_dump(mode="json", exclude_defaults=True))


def resolve_location(path: str, folder: Path) -> str:
    """The absolute path for a path relative to `folder`; locations of MLflow and the lab stay."""
    if path.startswith(LAB_PREFIX) or REMOTE_URI.match(path):
        return path
    return str(folder / Path(path).expanduser())


def _absolute(experiment: Experiment, folder: Path) -> Experiment:
    """The experiment with all paths made absolute, those that are relative from `folder`."""
    stages = []
    for stage in experiment.stages:
        data = _absolute_data(stage.data, folder)
        stages.append(stage.model_copy(update={"data": data}))
    updates: dict[str, Any] = {"stages": tuple(stages)}
    updates["mitigations"] = _absolute_options(experiment.mitigations, folder)
    if experiment.held_out:
        updates["held_out"] = _absolute_data(experiment.held_out, folder)
    if experiment.tokenizer.chat_template:
        template = str(folder / experiment.tokenizer.chat_template)
        updates["tokenizer"] = experiment.tokenizer.model_copy(update={"chat_template": template})
    # a model may be the name of one on the Hub: it is a path only where there is such a folder
    model = folder / Path(experiment.model).expanduser()
    if model.is_dir():
        updates["model"] = str(model)
    return experiment.model_copy(update=updates)


def _absolute_data(data: DataConfig, folder: Path) -> DataConfig:
    if not data.path:
        return data
    return data.model_copy(update={"path": resolve_location(data.path, folder)})


def _absolute_options(options: Any, folder: Path) -> Any:
    """Options of plugins, in which every `path` to something that exists is made absolute."""
    if not isinstance(options, dict):
        return options
    resolved = {name: _absolute_options(value, folder) for name, value in options.items()}
    path = resolved.get("path")
    if isinstance(path, str) and not path.startswith(LAB_PREFIX):
        beside_experiment = folder / Path(path).expanduser()
        # what is not there is left to the plugin, which knows what it calls a path
        if beside_experiment.exists():
            resolved["path"] = str(beside_experiment)
    return resolved


def is_lab(experiment: Experiment) -> bool:
    """Whether the lab makes any of the experiment's files."""
    return bool(_lab_locations(experiment))


def lab_size(experiment: Experiment) -> str:
    """The size of the lab that makes the experiment's files: `full` in `lab:full/base`."""
    return _lab_locations(experiment)[0].removeprefix(LAB_PREFIX).partition("/")[0]


def _lab_locations(experiment: Experiment) -> list[str]:
    """Locations of the model and the stages' rows that begin with LAB_PREFIX."""
    locations = [experiment.model]
    for stage in experiment.stages:
        locations.append(stage.data.path or "")
    return [location for location in locations if location.startswith(LAB_PREFIX)]
