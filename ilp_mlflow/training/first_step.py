"""What can be seen to go wrong behind the first step of a training, said once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel

from ilp_mlflow.core.terminal.notes import say_once
from ilp_mlflow.data.training_configs.setup import AdapterSetup, TrainingSetup, lora_scale
from ilp_mlflow.scoring.tokens.encoding import Tokenization
from ilp_mlflow.training.accounts.exposure_ledger import ExposureLedger
from ilp_mlflow.training.accounts.ledger_note import LABELS_IN_PLACE, MASK_PADDING, LedgerNote
from ilp_mlflow.training.checks.embeddings import LoadedEmbedding
from ilp_mlflow.training.checks.finding import CheckedRow, CheckFinding, counted
from ilp_mlflow.training.checks.lengths import check_lengths
from ilp_mlflow.training.checks.optimization import check_optimization
from ilp_mlflow.training.checks.rendering import check_rendering
from ilp_mlflow.training.checks.supervision import check_supervision
from ilp_mlflow.training.checks.trained_tokens import token_row_modules
from ilp_mlflow.training.checks.vocabulary import Vocabulary, check_vocabulary

MOST_ROWS = 0.5
"""Share 0..1 of rows from which an end token outside of the loss is the training's fault rather
than that of single rows."""


def warn_at_first_step(
    ledger: ExposureLedger,
    model: torch.nn.Module,
    tokenization: Tokenization,
    options: Mapping[str, Any],
    new_tokens: Collection[str] = (),
) -> None:
    """Say on stderr, a line each, what the first step of a training shows to go wrong.

    `options` are those of the trainer, `new_tokens` the tokens that the base does not have.
    """
    for finding in first_step_findings(ledger, model, tokenization, options, new_tokens):
        parts = [finding.sentence, finding.example and f"e.g. {finding.example}", finding.change]
        say_once(f"stage '{ledger.stage}': {'; '.join(part for part in parts if part)}")


def first_step_findings(
    ledger: ExposureLedger,
    model: torch.nn.Module,
    tokenization: Tokenization,
    options: Mapping[str, Any],
    new_tokens: Collection[str] = (),
) -> list[CheckFinding]:
    """What the first step of a training shows to go wrong; see `warn_at_first_step`."""
    rows = _rows_as_trained(ledger)
    setup = _setup(model, options)
    findings = [*_no_ledger(ledger), *_nothing_trainable(model)]
    findings += check_optimization(setup, len(ledger.samples))
    shifted = _shifted_labels(ledger)
    # of labels that stand elsewhere than their tokens nothing else can be said
    findings += shifted or _of_the_labels(ledger, rows, setup, tokenization)
    findings += _attended_padding(ledger)
    findings += [found for found in check_rendering(rows) if found.severity != "note"]
    if isinstance(model, PeftModel):
        embedding = LoadedEmbedding.of_model(model)
        vocabulary = Vocabulary(tokenization.tokenizer, tuple(sorted(new_tokens)), embedding)
        of_tokens = check_vocabulary(rows, setup, vocabulary)
        findings += [found for found in of_tokens if found.kind == "untrained_tokens"]
    return findings


def _of_the_labels(
    ledger: ExposureLedger,
    rows: Sequence[CheckedRow],
    setup: TrainingSetup,
    tokenization: Tokenization,
) -> list[CheckFinding]:
    """What the labels leave out of the loss."""
    masked = _ends_masked_as_padding(rows, tokenization) if ledger.relabelled else []
    findings = []
    for finding in _of_the_mask(rows, setup, tokenization):
        # the same rows, with the reason
        if not (masked and finding.kind == "end_not_in_the_loss"):
            findings.append(finding)
    return [*findings, *masked]


def _shifted_labels(ledger: ExposureLedger) -> list[CheckFinding]:
    """Labels that a collator shifted before the model does."""
    note = _note_of(ledger)
    if not note.label_offset:
        return []
    return [
        CheckFinding(
            kind="labels_shifted",
            severity="error",
            sentence=note.label_sentence,
            change=f"{LABELS_IN_PLACE}; where the trainer computes its loss from logits itself, "
            "see that it does not",
        )
    ]


def _attended_padding(ledger: ExposureLedger) -> list[CheckFinding]:
    """Padding in front of rows that the model reads as text."""
    note = _note_of(ledger)
    if not note.attended_padding:
        return []
    return [
        CheckFinding(
            kind="attended_padding",
            severity="warning",
            sentence=note.padding_sentence,
            change=MASK_PADDING,
        )
    ]


def _note_of(ledger: ExposureLedger) -> LedgerNote:
    return LedgerNote(
        stage=ledger.stage,
        steps=1,
        label_offset=ledger.form.label_offset,
        rows=ledger.form.rows,
        attended_padding=ledger.form.attended,
    )


def _rows_as_trained(ledger: ExposureLedger) -> list[CheckedRow]:
    """The rows with their accounts: where a collator makes the labels, those it has made by now."""
    rows = []
    for number, (sample, prepared) in enumerate(zip(ledger.samples, ledger.prepared, strict=True)):
        if not ledger.relabelled or number in ledger.relabelled:
            rows.append(CheckedRow(sample, prepared.account))
    return rows


def _setup(model: torch.nn.Module, options: Mapping[str, Any]) -> TrainingSetup:
    """What the training does to its rows, as the checks read it."""
    setup = TrainingSetup(
        max_length=options.get("max_length"),
        too_long="keep_end" if options.get("truncation_mode") == "keep_end" else "keep_start",
        epochs=options["num_train_epochs"],
        max_steps=options["max_steps"],
        batch_size=options["per_device_train_batch_size"],
        accumulation=options["gradient_accumulation_steps"],
        packing=bool(options.get("packing")),
        learning_rate=options["learning_rate"],
        warmup_steps=options["warmup_steps"],
        optimizer=str(options["optim"]),
    )
    if not isinstance(model, PeftModel):
        return setup
    config = model.active_peft_config
    adapter = AdapterSetup(
        target_modules=_names(getattr(config, "target_modules", None)),
        modules_to_save=_names(getattr(config, "modules_to_save", None)),
        token_rows=token_row_modules(getattr(config, "trainable_token_indices", None)),
        scale=_scale(config),
    )
    return setup.model_copy(update={"adapter": adapter})


def _scale(config: PeftConfig) -> float | None:
    """What the adapter is scaled by; None for one that is no LoRA."""
    if not isinstance(config, LoraConfig):
        return None
    return lora_scale(config.lora_alpha, config.r, config.use_rslora)


def _names(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(sorted(value or ()))


def _no_ledger(ledger: ExposureLedger) -> list[CheckFinding]:
    if not ledger.unread:
        return []
    return [
        CheckFinding(
            kind="no_ledger",
            severity="warning",
            sentence=f"the ledger sees no batch: {ledger.unread}",
            change="how often a row is trained will not be known",
        )
    ]


def _nothing_trainable(model: torch.nn.Module) -> list[CheckFinding]:
    if any(parameter.requires_grad for parameter in model.parameters()):
        return []
    if isinstance(model, PeftModel):
        sentence = f"the adapter trains nothing: '{model.active_adapter}' has no trainable weight"
        change = "load it with is_trainable=True, or call model.set_adapter with its name"
    else:
        sentence = "nothing is trained: no weight of the model requires a gradient"
        change = "set requires_grad on what is to be trained, or give an adapter (peft_config)"
    return [
        CheckFinding(kind="nothing_trainable", severity="error", sentence=sentence, change=change)
    ]


def _of_the_mask(
    rows: Sequence[CheckedRow], setup: TrainingSetup, tokenization: Tokenization
) -> list[CheckFinding]:
    """Answers that are cut or out of the loss, and ends that are."""
    found = [
        *check_supervision(rows, setup, tokenization),
        *check_lengths(rows, setup, tokenization),
    ]
    findings = []
    for finding in found:
        is_seldom = finding.kind == "end_not_in_the_loss" and finding.share < MOST_ROWS
        if finding.severity != "note" and not is_seldom:
            findings.append(finding)
    return findings


def _ends_masked_as_padding(
    rows: Sequence[CheckedRow], tokenization: Tokenization
) -> list[CheckFinding]:
    """End tokens that the collator takes out of the loss, since they are the padding token."""
    pad = tokenization.tokenizer.pad_token
    faulty = [
        row
        for row in rows
        if row.account.end_token == pad
        and row.account.supervised_answer_tokens == row.account.answer_tokens - 1
        and not row.account.end_supervised
        and not row.account.cut_tokens
    ]
    if not pad or len(faulty) < MOST_ROWS * len(rows):
        return []
    return [
        CheckFinding(
            kind="padding_is_the_end",
            severity="warning",
            sentence=f"{counted(len(faulty), len(rows))}: the answer ends with {pad}, which is "
            "also the padding token, and the loss leaves it out: the model does not learn to stop",
            rows=len(faulty),
            share=len(faulty) / len(rows),
            example=faulty[0].place,
            change="set a pad_token of its own",
        )
    ]
