"""Everything an experiment needs, checked before a run is started or a token trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ilp_mlflow import catalog, dataset, encoding, models, registry, tracking, training
from ilp_mlflow.config import Experiment
from ilp_mlflow.errors import ConfigError, DatasetError, ModelError
from ilp_mlflow.types import Checkpoint, Stage


def preflight(experiment: Experiment, parent: str | None = None) -> list[Stage]:
    """Check options, plugins, data, MLflow and the model (`parent` in place of the experiment's own); return the stages.

    Raises IlpError for the first thing that is wrong.
    """
    for config in experiment.stages:
        training.check(config.name, config.training, config.peft)
    if experiment.launch == "project" and not Path("MLproject").exists():
        raise ConfigError(f"launch: project needs an MLproject file in the current folder ({Path.cwd()}); start there")
    stages = _stages(experiment)
    tracking.connect(experiment.tracking, experiment.name)
    location = parent or experiment.model
    if (Path(location) / "adapter_config.json").exists():
        raise ModelError(f"model '{location}' is an adapter; give the model it was trained on, or one that has it merged in")
    text = models.read(catalog.locate(location), experiment.tokenizer)
    for stage in stages:
        encoding.check(text.tokenizer, stage.samples)
        training.check_length(stage, text)
    return stages


def preflight_trained(experiment: Experiment, checkpoints: Sequence[Checkpoint]) -> list[Stage]:
    """Check options, plugins, data, MLflow and the `checkpoints` (base first) of stages trained elsewhere; return the stages.

    Raises IlpError for the first thing that is wrong.
    """
    stages = _stages(experiment)
    tracking.connect(experiment.tracking, experiment.name)
    texts = [models.read(catalog.locate(c.model_uri, checkpoints[0].model_uri), experiment.tokenizer) for c in checkpoints]
    for stage in stages:
        encoding.check(texts[-1].tokenizer, stage.samples)
    return stages


def _stages(experiment: Experiment) -> list[Stage]:
    """The stages with their data, once plugins and device are there."""
    tracking.point(experiment.tracking)  # rows may be in its store
    registry.configured("diagnostic", experiment.diagnostics)
    registry.configured("mitigation", experiment.mitigations)
    models.pick_device(experiment.scoring.device)
    if experiment.held_out:
        dataset.load("held_out", experiment.held_out)
    stages, owner = [], dict[str, str]()
    for config in experiment.stages:
        samples = dataset.load(config.name, config.data)
        for sample in samples:
            if sample.id in owner:
                raise DatasetError(
                    f"{config.data.path or config.data.dataset}: id '{sample.id}' is also in stage '{owner[sample.id]}'; "
                    "ids must be unique over all stages (or left out)"
                )
            owner[sample.id] = config.name
        stages.append(config.as_stage(samples, experiment.seed))
    return stages
