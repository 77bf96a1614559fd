"""For anyone's own `trl.SFTTrainer`: follow it by sample, register its model, diagnose it."""

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

from ilp_mlflow import pipeline, run_log
from ilp_mlflow.core.config import Experiment
from ilp_mlflow.core.errors import ConfigError, DatasetError, ModelError, first_line
from ilp_mlflow.core.terminal.notes import say_once
from ilp_mlflow.core.training_log import TrainingLog
from ilp_mlflow.core.validation import describe_error
from ilp_mlflow.core.values import Checkpoint, Exposure, Report, Stage, as_json, to_table
from ilp_mlflow.data import readers
from ilp_mlflow.data.formats.choose import canonical_records, names_of
from ilp_mlflow.data.records import Record
from ilp_mlflow.data.samples import samples_from_records
from ilp_mlflow.data.training_configs.trl_rows import trl_form
from ilp_mlflow.report.summary import terminal_summary
from ilp_mlflow.scoring.models import loading
from ilp_mlflow.scoring.models.loading import LoadedModel
from ilp_mlflow.scoring.models.tokenization import read_tokenization
from ilp_mlflow.scoring.models.whole_weights import refuse_diverged_model
from ilp_mlflow.scoring.tokens.encoding import Tokenization, check_encodable
from ilp_mlflow.tracking import connection, model_registry, runs
from ilp_mlflow.training.accounts.exposure_ledger import BatchListener, ExposureLedger
from ilp_mlflow.training.accounts.ledger_note import LedgerNote
from ilp_mlflow.training.accounts.prepared_rows import PreparedRow, match_row, match_rows
from ilp_mlflow.training.accounts.row_account import RowAccount
from ilp_mlflow.training.first_step import warn_at_first_step
from ilp_mlflow.training.resume import checkpoint_step
from ilp_mlflow.training.stage import version_tags
from ilp_mlflow.training.training_logs import read_log

REPORTED_OPTIONS = (
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
REPORTED_LORA_OPTIONS = ("r", "lora_alpha", "lora_dropout", "target_modules")
"""Those of its LoRA adapter."""


class IlpCallback(TrainerCallback):
    """Follows an SFTTrainer; when it is done, registers what it trained and diagnoses it.

    What is trained stays the same, bit for bit.

    `rows` are those of `train_dataset`: prompt and completion, or messages; optionally id, options,
    probes, paraphrases, source; or the data set of `mlflow.data` that holds them. Results go to the
    MLflow run that is active while it trains (to a child, where that has a diagnosis already), else
    to one of their own, named `name`; the model becomes `<name>.<stage>`. `base` is where the model
    was loaded from (folder, Hub id, MLflow URI), left out: what it says itself. `scoring` and
    `diagnostics` are as in an experiment's file, and so are the `fields` of its data.

    Raises DatasetError for a bad row and ConfigError for a bad option; before the first step
    ConfigError for packing, several processes, or rows that are not the trainer's, ModelError for a
    base that cannot be found, and TrackingError for an MLflow that does not answer. Behind the last
    step nothing is raised: stderr says what failed.
    """

    report: Report | None = None
    """The diagnosis, once training is over."""

    def __init__(
        self,
        rows: Iterable[Mapping[str, Any]],
        name: str = "trl",
        stage: str = "sft",
        base: str | None = None,
        scoring: Mapping[str, Any] | None = None,
        diagnostics: Mapping[str, Any] | Sequence[str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> None:
        # the samples are an artifact of the run: there is no file
        data = {"path": f"{runs.FOLDER}/samples.parquet", "fields": fields or {}}
        config = {
            "name": name,
            "model": base or "",
            "stages": [{"name": stage, "data": data}],
            "scoring": scoring or {},
            "diagnostics": diagnostics,
        }
        try:
            self.experiment = Experiment.model_validate(config)
        except ValidationError as error:
            raise ConfigError(describe_error(error, Experiment, "IlpCallback")) from None
        rows = readers.as_records(rows)
        if not isinstance(rows, Sized):
            raise ConfigError(
                f"IlpCallback: {type(rows).__name__} is streamed, and every sample is scored; "
                "load it as a Dataset"
            )
        records = [Record(f"row {n}", n, _as_record(row, n)) for n, row in enumerate(rows, 1)]
        self._foreign_roles = trl_form(records).roles
        names = names_of(self.experiment.stages[0].data)
        self.samples = samples_from_records(stage, canonical_records(records, "rows", names))
        self.run_id: str | None = None
        self.step = 0
        self._ledger: ExposureLedger | None = None
        self._listener: BatchListener | None = None
        self._accounts: list[RowAccount] = []
        self._new_tokens: list[str] = []
        self._evaluated = (0, 0)

    def on_init_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Refuse what cannot be followed or found again, as soon as there is a trainer."""
        _refuse_hidden_samples(args)
        self._resolve_base(model)

    def on_train_begin(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any = None,
        processing_class: Any = None,
        **others: Any,
    ) -> None:
        """Match the trainer's rows to the samples, and listen to the model's forward passes."""
        _refuse_hidden_samples(args)
        experiment, tokenization = self._resolve_base(model)
        connection.check_connection()
        self.experiment = _with_settings(experiment, args, model)
        # a plain Trainer need not have been given one
        processing_class = processing_class or tokenization.tokenizer
        # a model that this trainer trains also ends with the trainer's own end token
        ends = tokenization.end_token_ids | {processing_class.eos_token_id}
        self._tokenization = replace(tokenization, tokenizer=processing_class, end_token_ids=ends)
        known = tokenization.tokenizer.get_vocab()
        self._new_tokens = [token for token in processing_class.get_vocab() if token not in known]
        check_encodable(processing_class, self.samples)
        # the data loader's rows are those that TRL prepared; the text is gone from them
        prepared = others["train_dataloader"].dataset
        options = args.to_dict()
        try:
            rows = match_rows(self.samples, self._tokenization, prepared, options)
        except ConfigError:
            if not self._foreign_roles:
                raise
            raise ConfigError(
                f"IlpCallback: TRL gives the roles {', '.join(self._foreign_roles)} to the chat "
                "template as they are, so that the model learns other names than those it is asked "
                "under; rename them to user and assistant in the rows"
            ) from None
        self._accounts = [row.account for row in rows]
        self._tell_unread_weights()
        self._stop_listening()
        self._ledger = None
        # of a training that is resumed, nobody knows what was trained before
        if state.global_step == 0:

            def prepare_again(number: int, labels: Sequence[int]) -> PreparedRow:
                sample, ids = self.samples[number], rows[number].ids.tolist()
                return match_row(sample, self._tokenization, ids, labels, options)

            name = experiment.stages[0].name
            self._ledger = ExposureLedger(name, self.samples, rows, prepare_again)
            self._listener = self._ledger.follow(model, lambda: self.step)

    def _tell_unread_weights(self) -> None:
        """Tell of rows that keep their answer out of a loss in which it is."""
        pairs = zip(self.samples, self._accounts, strict=True)
        trained = [s.name for s, account in pairs if s.left_out and not account.weight_zero]
        if trained:
            say_once(
                f"IlpCallback: {len(trained)} rows (such as {trained[0]}) have weight 0, which TRL "
                "does not read: their answers are trained; leave such rows out, or use ilp run"
            )

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note the step, and the run that whoever logs this training has started by now."""
        self.step, self.run_id = state.global_step + 1, runs.active_run_id()

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note a batch of a step that has more of them."""
        if self._listener is not None:
            self._listener.end_batch()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note the last batch of a step."""
        if self._listener is not None:
            self._listener.end_batch()

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Say behind the first step what can be seen to go wrong."""
        if self._ledger is not None and state.global_step == 1:
            warn_at_first_step(
                self._ledger, model, self._tokenization, args.to_dict(), self._new_tokens
            )

    def on_evaluate(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **_: Any
    ) -> None:
        """Say which rows of the evaluation are also trained."""
        evaluated: Any = getattr(eval_dataloader, "dataset", None)
        if self._ledger is None or self._evaluated[0]:
            return
        if "input_ids" not in getattr(evaluated, "column_names", ()):
            return
        is_trained = [self._ledger.holds(ids) for ids in evaluated["input_ids"]]
        self._evaluated = len(is_trained), sum(is_trained)
        note = self._note(state, None)
        if note.evaluated_trained:
            say_once(f"stage '{note.stage}': {note.evaluated_sentence}")

    def on_train_end(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        """Register the model and diagnose it."""
        self._stop_listening()
        self._close_ledger(args, state)
        log = read_log(self.experiment.stages[0].name, args, state, model)
        try:
            # what the trainer draws behind this stays the same, too
            with torch.random.fork_rng():
                self.report = self._diagnose(model, log)
        except Exception as error:
            # the training is worth more than its diagnosis: whatever failed, it must not fail
            print(
                "ilp: the model is trained, but its diagnosis failed: "
                f"{first_line(error)}; once the model is saved: ilp diagnose "
                f"--checkpoint base={self.experiment.model} --checkpoint sft=FOLDER --data ROWS",
                file=sys.stderr,
            )
        else:
            summary = terminal_summary(self.report)
            lines = ["", summary, "", *connection.how_to_open(self.report.run_id)]
            print("\n".join(lines), file=sys.stderr)

    def _close_ledger(self, args: Any, state: Any) -> None:
        """Strike what is not in the model that was kept, and what no step was made of."""
        if self._ledger is None:
            return
        kept_step = _kept_step(args, state)
        self._ledger_note = self._note(state, kept_step)
        self._ledger.strike_after(state.global_step if kept_step is None else kept_step)
        # a collator may have made other labels than were prepared
        self._accounts = [row.account for row in self._ledger.prepared]

    def _note(self, state: Any, kept_step: int | None) -> LedgerNote:
        """How far the ledger goes by now."""
        assert self._ledger is not None
        evaluated, evaluated_trained = self._evaluated
        return LedgerNote(
            stage=self._ledger.stage,
            steps=state.global_step,
            kept_step=kept_step,
            unread=self._ledger.unread,
            evaluated=evaluated,
            evaluated_trained=evaluated_trained,
            label_offset=self._ledger.form.label_offset,
            rows=self._ledger.form.rows,
            attended_padding=self._ledger.form.attended,
        )

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.stop()
            self._listener = None

    def _resolve_base(self, model: Any) -> tuple[Experiment, Tokenization]:
        """The experiment with its base, and how that reads text.

        Raises ConfigError when nobody says what the base is, ModelError when it is an adapter or
        cannot be found.
        """
        if isinstance(model, PeftModel):
            loaded_from = model.active_peft_config.base_model_name_or_path
        else:
            loaded_from = model.config._name_or_path
        base = self.experiment.model or loaded_from
        if not base:
            raise ConfigError(
                "IlpCallback: the model does not say where it was loaded from; give that as base="
            )
        parts = model_registry.resolve_parts(base)
        if len(parts) > 1:
            raise ModelError(
                f"model '{base}' is an adapter; give the model below it as base=, or one that has "
                "it merged in"
            )
        experiment = self.experiment.model_copy(update={"model": base})
        return experiment, read_tokenization(parts)

    def _diagnose(self, model: Any, log: TrainingLog) -> Report:
        """Log and register what was trained, then diagnose it as if it had been trained here."""
        experiment = self.experiment
        stage = experiment.stages[0].as_stage(self.samples, experiment.seed)
        # a model without a verdict gets no run either
        refuse_diverged_model(model, f"stage '{stage.name}'")
        tags_before = runs.tags(self.run_id) if self.run_id else {}
        # a run with a diagnosis keeps it: this one goes to a child
        if "ilp.trained" in tags_before:
            run = runs.start(experiment.name, "experiment", parent=self.run_id)
        else:
            run = runs.start(experiment.name, "experiment", run_id=self.run_id)
        with run as run_id:
            run_log.log_experiment(run_id, experiment, [stage])
            checkpoints = self._register(stage, model, run_id)
            runs.write(run_id, "checkpoints.json", as_json(checkpoints))
            accounts = to_table(self._accounts, RowAccount)
            runs.write(run_id, "accounts.parquet", accounts)
            self._write_ledger(run_id)
            runs.write(run_id, "training_logs.json", as_json([log]))
            tags = {"ilp.trained": "elsewhere"}
            note = tags_before.get("mlflow.note.content")
            if note and self.run_id == run_id:
                tags["ilp.foreword"] = note
            runs.log(run_id, tags=tags)
        try:
            pipeline.diagnose(experiment, run_id)
            return pipeline.make_report(experiment, run_id)
        except KeyboardInterrupt:
            print(
                "ilp: interrupted; the model is registered, to diagnose it: "
                f"ilp diagnose --run-id {run_id}",
                file=sys.stderr,
            )
            raise

    def _write_ledger(self, run_id: str) -> None:
        """Log what is known of batches: what is not is left out, and never zero."""
        ledger = self._ledger
        if ledger is None:
            return
        runs.write(run_id, "ledgers.json", as_json([self._ledger_note]))
        if ledger.unread:
            return
        runs.write(run_id, "exposures.parquet", to_table(ledger.exposures(), Exposure))
        if ledger.has_results:
            runs.write(run_id, "signals.parquet", ledger.signals())

    def _register(self, stage: Stage, model: Any, run_id: str) -> list[Checkpoint]:
        """Register the base and the trained model; return their checkpoints."""
        experiment, tokenization = self.experiment, self._tokenization
        base = model_registry.register_base(experiment.model, run_id)
        loaded = LoadedModel(
            tokenization.tokenizer, tokenization.end_token_ids, tokenization.max_length, model
        )
        tags = version_tags(experiment, stage, base, run_id)
        with tempfile.TemporaryDirectory() as folder:
            (below,) = model_registry.resolve_parts(experiment.model)
            loading.save_model(loaded, Path(folder), base, with_tokenizer=True, trained_on=below)
            uri = model_registry.register(f"{experiment.name}.{stage.name}", folder, run_id, tags)
        return [
            Checkpoint(name="base", model_uri=base),
            Checkpoint(name=stage.name, model_uri=uri, run_id=run_id),
        ]


def _refuse_hidden_samples(args: Any) -> None:
    """Raise ConfigError for trainer options under which the ledger would not see every sample."""
    for option in ("packing", "padding_free"):
        if getattr(args, option, False):
            raise ConfigError(
                f"IlpCallback: such a batch hides which samples are in it; leave out {option}"
            )
    if args.world_size > 1:
        raise ConfigError(
            f"IlpCallback: follows one process, there are {args.world_size}; train in one, or "
            "diagnose afterwards"
        )


def _kept_step(args: Any, state: Any) -> int | None:
    """The step whose weights a trainer has loaded at the end; None: the last one's stay."""
    if not args.load_best_model_at_end or state.best_model_checkpoint is None:
        return None
    return checkpoint_step(Path(state.best_model_checkpoint))


def _with_settings(experiment: Experiment, args: Any, model: Any) -> Experiment:
    """The experiment with seed, order and options of the trainer, for the report to state."""
    (stage,) = experiment.stages
    order = "sequential" if args.train_sampling_strategy == "sequential" else "shuffled"
    adapter = None
    if isinstance(model, PeftModel):
        adapter = _set_options(model.active_peft_config.to_dict(), REPORTED_LORA_OPTIONS)
    settings = {
        "schedule": order,
        "training": _set_options(args.to_dict(), REPORTED_OPTIONS),
        "peft": adapter,
    }
    stage = stage.model_copy(update=settings)
    return experiment.model_copy(update={"seed": args.seed, "stages": (stage,)})


def _set_options(options: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Those of the options that are neither off nor without a value, sets as sorted lists."""
    set_options = {}
    for name in names:
        value = options.get(name)
        # TRL says -1 for steps and lengths that are not limited
        if value not in (None, False, 0, -1):
            set_options[name] = sorted(value) if isinstance(value, set) else value
    return set_options


def _as_record(row: Any, number: int) -> dict[str, Any]:
    if not isinstance(row, Mapping):
        raise DatasetError(
            f"row {number}: expected an object with 'prompt' and 'completion', "
            f"got {type(row).__name__}"
        )
    return dict(row)
