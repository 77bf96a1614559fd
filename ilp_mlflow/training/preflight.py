"""Everything an experiment needs, checked before a run is started or a token trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ilp_mlflow.core import plugin_loader
from ilp_mlflow.core.config import Experiment
from ilp_mlflow.core.errors import ConfigError, DatasetError, ModelError
from ilp_mlflow.core.values import Checkpoint, Stage
from ilp_mlflow.data.samples import load_samples
from ilp_mlflow.scoring import encoding, loading
from ilp_mlflow.tracking import connection, model_registry
from ilp_mlflow.training.trainer import check_max_length, check_options


def check_experiment(experiment: Experiment, parent: str | None = None) -> list[Stage]:
    """Check options, plugins, data, MLflow and the model (`parent` in place of the experiment's own); return the stages.

    Raises IlpError for the first thing that is wrong.
    """
    for config in experiment.stages:
        check_options(config.name, config.training, config.peft)
    if experiment.launch == "project" and not Path("MLproject").exists():
        raise ConfigError(
            f"launch: project needs an MLproject file in the current folder ({Path.cwd()}); start there"
        )
    stages = _stages(experiment)
    connection.connect(experiment.tracking, experiment.name)
    location = parent or experiment.model
    if (Path(location) / "adapter_config.json").exists():
        raise ModelError(
            f"model '{location}' is an adapter; give the model it was trained on, or one that has it merged in"
        )
    text = loading.read_tokenization(model_registry.resolve_parts(location), experiment.tokenizer)
    for stage in stages:
        encoding.check_encodable(text.tokenizer, stage.samples)
        check_max_length(stage, text)
    return stages


def check_trained_elsewhere(
    experiment: Experiment, checkpoints: Sequence[Checkpoint]
) -> list[Stage]:
    """Check options, plugins, data, MLflow and the `checkpoints` (base first) of stages trained elsewhere; return the stages.

    Raises IlpError for the first thing that is wrong.
    """
    stages = _stages(experiment)
    connection.connect(experiment.tracking, experiment.name)
    texts = [
        loading.read_tokenization(
            model_registry.resolve_parts(c.model_uri, checkpoints[0].model_uri),
            experiment.tokenizer,
        )
        for c in checkpoints
    ]
    for stage in stages:
        encoding.check_encodable(texts[-1].tokenizer, stage.samples)
    return stages


def _stages(experiment: Experiment) -> list[Stage]:
    """The stages with their data, once plugins and device are there."""
    connection.use_store(experiment.tracking)  # rows may be in its store
    plugin_loader.configure("diagnostic", experiment.diagnostics)
    plugin_loader.configure("mitigation", experiment.mitigations)
    loading.pick_device(experiment.scoring.device)
    if experiment.held_out:
        load_samples("held_out", experiment.held_out)
    stages, owner = [], dict[str, str]()
    for config in experiment.stages:
        samples = load_samples(config.name, config.data)
        for sample in samples:
            if sample.id in owner:
                raise DatasetError(
                    f"{config.data.path or config.data.dataset}: id '{sample.id}' is also in stage '{owner[sample.id]}'; "
                    "ids must be unique over all stages (or left out)"
                )
            owner[sample.id] = config.name
        stages.append(config.as_stage(samples, experiment.seed))
    return stages
