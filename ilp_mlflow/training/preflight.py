"""Everything an experiment needs, checked before a run is started or a token trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ilp_mlflow.core import plugin_loader
from ilp_mlflow.core.config import ALL_ROWS, Experiment
from ilp_mlflow.core.errors import ConfigError, DatasetError, ModelError, suggest
from ilp_mlflow.core.terminal.notes import say_once
from ilp_mlflow.core.values import Checkpoint, Stage
from ilp_mlflow.data.held_out import CHANGE, read_held_out
from ilp_mlflow.data.samples import load_samples
from ilp_mlflow.scoring.checkpoints import read_last_tokenization
from ilp_mlflow.scoring.models import loading
from ilp_mlflow.scoring.models.tokenization import read_tokenization
from ilp_mlflow.scoring.tokens.encoding import Tokenization, check_encodable
from ilp_mlflow.scoring.verdicts.judgements import read_judges
from ilp_mlflow.tracking import connection, model_registry
from ilp_mlflow.training.accounts.row_account import account_rows, training_template
from ilp_mlflow.training.options import check_options
from ilp_mlflow.training.trainer import check_max_length


def check_experiment(experiment: Experiment, parent: str | None = None) -> list[Stage]:
    """Check options, plugins, data, MLflow and the model; return the stages with their data.

    The model is `parent`, left out: the experiment's own. Raises IlpError for the first fault.
    """
    for config in experiment.stages:
        check_options(config.name, config.training, config.peft)
    _check_project_file(experiment)
    _check_plugins_and_device(experiment)
    stages = _load_stages(experiment)
    connection.connect(experiment.tracking, experiment.name)
    model = parent or experiment.model
    _refuse_adapter(model)
    parts = model_registry.resolve_parts(model)
    tokenization = read_tokenization(parts, experiment.tokenizer)
    loading.check_whole(parts)
    for stage in stages:
        check_encodable(tokenization.tokenizer, stage.samples)
        check_max_length(stage, tokenization)
        _check_loss(stage, tokenization)
    return stages


def _check_loss(stage: Stage, tokenization: Tokenization) -> None:
    """Raise ConfigError where it is not known which tokens the options of a stage train."""
    if stage.training.get("assistant_only_loss"):
        if isinstance(stage.samples[0].prompt, str):
            raise ConfigError(
                f"stage '{stage.name}': assistant_only_loss is for conversations, and its rows are "
                "text; leave it out"
            )
        try:
            training_template(tokenization.tokenizer)
        except ValueError:
            raise ConfigError(
                f"stage '{stage.name}': assistant_only_loss needs a chat template with "
                "{% generation %} markers, and the model's has none; leave it out (of a "
                "conversation the last turn alone is trained), or set tokenizer.chat_template"
            ) from None
    weighted = [sample for sample in stage.samples if sample.leaves_earlier_turns_out]
    account_rows(weighted, tokenization, stage.training)


def check_trained_elsewhere(
    experiment: Experiment, checkpoints: Sequence[Checkpoint]
) -> list[Stage]:
    """Check plugins, data, MLflow and models of stages that were trained elsewhere.

    `checkpoints` are the models, base first. Returns the stages with their data. Raises IlpError
    for the first fault.
    """
    _check_plugins_and_device(experiment)
    stages = _load_stages(experiment)
    connection.connect(experiment.tracking, experiment.name)
    parts = model_registry.resolve_all({c.name: c.model_uri for c in checkpoints})
    tokenization = read_last_tokenization(parts, experiment.tokenizer)
    # samples are encoded as the last checkpoint reads them
    for stage in stages:
        check_encodable(tokenization.tokenizer, stage.samples)
    for parts_of_checkpoint in parts.values():
        loading.check_whole(parts_of_checkpoint)
    model_registry.tell_other_bases(parts)
    return stages


def _check_project_file(experiment: Experiment) -> None:
    if experiment.launch == "project" and not Path("MLproject").exists():
        raise ConfigError(
            "launch: project needs an MLproject file in the current folder "
            f"({Path.cwd()}); start there"
        )


def _check_plugins_and_device(experiment: Experiment) -> None:
    # data may lie in the store, so it is set before any is loaded
    connection.use_store(experiment.tracking)
    read_judges(experiment.scoring)
    plugin_loader.configure("diagnostic", experiment.diagnostics)
    plugin_loader.configure("mitigation", experiment.mitigations)
    loading.pick_device(experiment.scoring.device)


def _refuse_adapter(model: str) -> None:
    if (Path(model) / "adapter_config.json").exists():
        raise ModelError(
            f"model '{model}' is an adapter; give the model it was trained on, or one that has it "
            "merged in"
        )


def _load_stages(experiment: Experiment) -> list[Stage]:
    """The stages with their data; held-out rows that they train are said.

    Raises DatasetError, also for bad held-out rows.
    """
    stages = []
    stage_by_id: dict[str, str] = {}
    for config in experiment.stages:
        samples = load_samples(config.name, config.data)
        for sample in samples:
            if sample.id in stage_by_id:
                raise DatasetError(
                    f"{config.data.path or config.data.dataset}: id '{sample.id}' is also in stage "
                    f"'{stage_by_id[sample.id]}'; ids must be unique over all stages (or left out)"
                )
            stage_by_id[sample.id] = config.name
        stages.append(config.as_stage(samples, experiment.seed))
    _check_judged_groups(experiment, stages)
    rows = read_held_out(experiment, stages)
    if rows is not None and rows.trained:
        say_once(f"{rows.sentence} (e.g. {rows.example}); {CHANGE}")
    return stages


def _check_judged_groups(experiment: Experiment, stages: Sequence[Stage]) -> None:
    """Raise ConfigError where a rule of verdicts is named for rows that there are not."""
    known = [ALL_ROWS]
    for stage in stages:
        known.append(stage.name)
        known += dict.fromkeys(s.source for s in stage.samples if s.source is not None)
    for group in experiment.scoring.verdicts:
        if group not in known:
            raise ConfigError(
                f"scoring.verdicts: '{group}' is no stage and no source of any row; "
                f"{suggest(group, known)}"
            )
