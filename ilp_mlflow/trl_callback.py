"""For anyone's own `trl.SFTTrainer`: follows what it trains sample by sample, registers the model as a stage, and diagnoses it."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from pydantic import ValidationError
from transformers import TrainerCallback

from ilp_mlflow import pipeline
from ilp_mlflow.core.config import Experiment, describe_error
from ilp_mlflow.core.errors import ConfigError, DatasetError, ModelError, first_line
from ilp_mlflow.core.values import Checkpoint, Exposure, Report, as_json, to_table
from ilp_mlflow.data import readers
from ilp_mlflow.data.samples import samples_from_records
from ilp_mlflow.report.summary import terminal_summary
from ilp_mlflow.scoring import loading
from ilp_mlflow.scoring.encoding import check_encodable
from ilp_mlflow.scoring.loading import LoadedModel, Tokenization
from ilp_mlflow.tracking import connection, model_registry, runs
from ilp_mlflow.training.exposure_ledger import ExposureLedger
from ilp_mlflow.training.stage import version_tags

TOLD = (
    "num_train_epochs",
    "max_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "weight_decay",
    "optim",
    "max_length",
    "truncation_mode",
    "dataloader_drop_last",
    "loss_type",
)
"""Options of the trainer that a report states, as far as they are set."""
ADAPTED = ("r", "lora_alpha", "lora_dropout", "target_modules")
"""Those of its LoRA adapter."""


class IlpCallback(TrainerCallback):
    """Follows an SFTTrainer, and when it is done registers what it trained and diagnoses it; what is trained stays the same.

    `rows` are those of `train_dataset`: prompt and completion, or messages; optionally id, options, probes, paraphrases, source;
    or the data set of `mlflow.data` that holds them.
    Results go to the MLflow run that is active while it trains (to a child, where that has a diagnosis already), else to one of
    their own, named `name`; the model becomes `<name>.<stage>`. `base` is where the model was loaded from (folder, Hub id, MLflow
    URI), left out: what it says itself. `scoring` and `diagnostics` are as in an experiment's file.

    Raises DatasetError for a bad row and ConfigError for a bad option; before the first step ConfigError for packing, several
    processes, or rows that are not the trainer's, ModelError for a base that cannot be found, and TrackingError for an
    MLflow that does not answer. Behind the last step nothing is raised: what fails is told on stderr.
    """

    report: Report | None = None
    """What was found, once training is over."""

    def __init__(
        self,
        rows: Iterable[Mapping[str, Any]],
        name: str = "trl",
        stage: str = "sft",
        base: str | None = None,
        scoring: Mapping[str, Any] | None = None,
        diagnostics: Mapping[str, Any] | Sequence[str] | None = None,
    ) -> None:
        stages = [
            {"name": stage, "data": f"{runs.FOLDER}/samples.parquet"}
        ]  # of the run: there is no file
        given = {
            "name": name,
            "model": base or "",
            "stages": stages,
            "scoring": scoring or {},
            "diagnostics": diagnostics,
        }
        try:
            self.experiment = Experiment.model_validate(given)
        except ValidationError as error:
            raise ConfigError(describe_error(error, Experiment, "IlpCallback")) from None
        rows = readers.as_records(rows)
        if not isinstance(rows, Sized):
            raise ConfigError(
                f"IlpCallback: {type(rows).__name__} is streamed, and every sample is scored; load it as a Dataset"
            )
        records = (readers.Record(f"row {n}", n, _record(row, n)) for n, row in enumerate(rows, 1))
        self.samples = samples_from_records(stage, records)
        self.run: str | None = None
        self.step = 0
        self._ledger: ExposureLedger | None = None
        self._hook: Any = None

    def on_init_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Refuse what cannot be followed or found again, as soon as there is a trainer."""
        self._base(args, model)

    def on_train_begin(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any = None,
        processing_class: Any = None,
        **given: Any,
    ) -> None:
        """Learn from the prepared rows how to know each in a batch, and listen to the model's own forward pass."""
        experiment, text = self._base(args, model)
        connection.check_connection()
        order = "sequential" if args.train_sampling_strategy == "sequential" else "shuffled"
        how = {"schedule": order, "training": _set(args.to_dict(), TOLD), "peft": _adapter(model)}
        (stage,) = experiment.stages
        self.experiment = experiment.model_copy(
            update={"seed": args.seed, "stages": (stage.model_copy(update=how),)}
        )
        self._text = replace(
            text, tokenizer=processing_class, ends=text.ends | {processing_class.eos_token_id}
        )
        check_encodable(processing_class, self.samples)
        ledger = ExposureLedger(
            self.samples,
            self._text,
            given["train_dataloader"].dataset,
            args.truncation_mode == "keep_end",
        )
        self._ledger = (
            ledger if state.global_step == 0 else None
        )  # resumed: nobody knows what was trained before
        if self._hook:
            self._hook.remove()
        self._hook = model.register_forward_hook(self._read, with_kwargs=True)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note the step, and the run that whoever logs this training has started by now."""
        self.step, self.run = state.global_step + 1, runs.active_run_id()

    def on_train_end(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        """Register the model and diagnose it."""
        self._hook.remove()
        self._hook = None
        try:
            with torch.random.fork_rng():
                self.report = self._conclude(model)
        except Exception as error:  # the training is worth more than its diagnosis
            again = f"ilp diagnose --checkpoint base={self.experiment.model} --checkpoint sft=FOLDER --data ROWS"
            why = f"the model is trained, but its diagnosis failed: {first_line(error)}"
            print(f"ilp: {why}; once the model is saved: {again}", file=sys.stderr)
        else:
            print(
                "\n".join(
                    [
                        "",
                        terminal_summary(self.report),
                        "",
                        *connection.how_to_open(self.report.run_id),
                    ]
                ),
                file=sys.stderr,
            )

    def _base(self, args: Any, model: Any) -> tuple[Experiment, Tokenization]:
        """The experiment with its base, and how that reads text. Raises ConfigError and ModelError, see the class."""
        for option in ("packing", "padding_free"):
            if getattr(args, option, False):
                raise ConfigError(
                    f"IlpCallback: such a batch hides which samples are in it; leave out {option}"
                )
        if args.world_size > 1:
            raise ConfigError(
                f"IlpCallback: follows one process, there are {args.world_size}; train in one, or diagnose afterwards"
            )
        own = (
            model.active_peft_config.base_model_name_or_path
            if isinstance(model, PeftModel)
            else model.config._name_or_path
        )
        base = self.experiment.model or own
        if not base:
            raise ConfigError(
                "IlpCallback: the model does not say where it was loaded from; give that as base="
            )
        parts = model_registry.resolve_parts(base)
        if len(parts) > 1:
            raise ModelError(
                f"model '{base}' is an adapter; give the model below it as base=, or one that has it merged in"
            )
        return self.experiment.model_copy(update={"model": base}), loading.read_tokenization(parts)

    def _read(self, model: Any, args: Any, inputs: dict[str, Any], outputs: Any) -> None:
        if self._ledger and model.training and getattr(outputs, "label_mask", None) is not None:
            self._ledger.read(self.step, inputs, outputs)

    def _conclude(self, model: Any) -> Report:
        experiment, text = self.experiment, self._text
        stage = experiment.stages[0].as_stage(self.samples, experiment.seed)
        before = runs.tags(self.run) if self.run else {}
        into = {"parent": self.run} if "ilp.trained" in before else {"run_id": self.run}
        with (
            runs.start(experiment.name, "experiment", **into) as run_id,
            tempfile.TemporaryDirectory() as folder,
        ):
            pipeline.log_experiment(run_id, experiment, [stage])
            base = model_registry.register_base(experiment.model, run_id)
            loading.save_model(
                LoadedModel(text.tokenizer, text.ends, text.max_length, model),
                Path(folder),
                base,
                with_tokenizer=True,
            )
            tags = version_tags(experiment, stage, base, run_id)
            uri = model_registry.register(f"{experiment.name}.{stage.name}", folder, run_id, tags)
            checkpoints = [
                Checkpoint(name="base", model_uri=base),
                Checkpoint(name=stage.name, model_uri=uri, run_id=run_id),
            ]
            runs.write(run_id, "checkpoints.json", as_json(checkpoints))
            if self._ledger:
                runs.write(
                    run_id, "exposures.parquet", to_table(self._ledger.exposures(), Exposure)
                )
                runs.write(run_id, "signals.parquet", self._ledger.signals())
            said = before.get("mlflow.note.content") if self.run == run_id else None
            runs.log(
                run_id, tags={"ilp.trained": "elsewhere"} | ({"ilp.foreword": said} if said else {})
            )
        try:
            pipeline.diagnose(experiment, run_id)
            return pipeline.make_report(experiment, run_id)
        except KeyboardInterrupt:
            print(
                f"ilp: interrupted; the model is registered, to diagnose it: ilp diagnose --run-id {run_id}",
                file=sys.stderr,
            )
            raise


def _adapter(model: Any) -> dict[str, Any] | None:
    """The options of a model's adapter, None without one."""
    return (
        _set(model.active_peft_config.to_dict(), ADAPTED) if isinstance(model, PeftModel) else None
    )


def _set(options: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Those of the options that are neither off nor without a value, lists sorted."""
    given = {name: options[name] for name in names if options.get(name) not in (None, False, 0, -1)}
    return {
        name: sorted(value) if isinstance(value, set) else value for name, value in given.items()
    }


def _record(row: Any, number: int) -> dict[str, Any]:
    if not isinstance(row, Mapping):
        raise DatasetError(
            f"row {number}: expected an object with 'prompt' and 'completion', got {type(row).__name__}"
        )
    return dict(row)
