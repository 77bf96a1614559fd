"""All checks of rows against a model and a training configuration, put together."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ilp_mlflow.core.config import TokenizerConfig
from ilp_mlflow.core.errors import ModelError
from ilp_mlflow.core.terminal.progress import track
from ilp_mlflow.core.value import Value
from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.training_configs.setup import TrainingSetup
from ilp_mlflow.scoring.models import model_config
from ilp_mlflow.scoring.models.tokenization import read_tokenization
from ilp_mlflow.scoring.tokens.encoding import (
    Tokenization,
    check_encodable,
)
from ilp_mlflow.training.accounts.row_account import account_rows
from ilp_mlflow.training.checks.assistant_turns import check_assistant_turns, countable
from ilp_mlflow.training.checks.duplicates import check_duplicates
from ilp_mlflow.training.checks.embeddings import find_embedding
from ilp_mlflow.training.checks.finding import (
    SEVERITIES,
    CheckedRow,
    CheckFinding,
    counted,
)
from ilp_mlflow.training.checks.held_out import check_held_out
from ilp_mlflow.training.checks.lengths import check_lengths, row_tokens
from ilp_mlflow.training.checks.optimization import check_optimization
from ilp_mlflow.training.checks.passes import check_passes
from ilp_mlflow.training.checks.rendering import check_rendering
from ilp_mlflow.training.checks.row_form import check_row_form, without_weights
from ilp_mlflow.training.checks.supervision import check_supervision
from ilp_mlflow.training.checks.trained_tokens import read_adapter, tokens_of_base
from ilp_mlflow.training.checks.vocabulary import Vocabulary, check_vocabulary


class Spread(Value):
    """One quantity over all rows."""

    minimum: float
    """The least."""
    median: float
    """The one in the middle."""
    maximum: float
    """The most."""


class RowCheck(Value):
    """What a check found."""

    rows: int
    """Rows that were checked."""
    tokens: dict[str, Spread]
    """Tokens of a row, of its prompt and answer and in the loss, and the share 0..1 in the loss."""
    findings: tuple[CheckFinding, ...]
    """The worst first."""


def check_rows(
    samples: Sequence[Sample],
    parts: Sequence[str],
    setup: TrainingSetup,
    held_out: Sequence[Sample] = (),
) -> RowCheck:
    """Check rows against the model made of `parts` and what a training does to them.

    `held_out` are rows that are not to be among them.

    Of the model its tokenizer, its configuration and the headers of its files are read. Raises
    ModelError when they cannot be, or when the model has no chat template for conversations.
    """
    setup = _with_adapter_of(parts, setup)
    tokenization, vocabulary = _read_model(parts, setup)
    accepted, refusals = _split_refused(samples, tokenization)
    findings = [*_refused(refusals, len(samples)), *check_held_out(samples, held_out)]
    if not accepted:
        return RowCheck(rows=len(samples), tokens={}, findings=tuple(findings))
    findings += check_assistant_turns(accepted, setup, tokenization)
    setup = countable(setup, accepted, tokenization)
    options = sft_options(setup)
    is_trl = setup.trainer == "TRL" and setup.read_from_file
    rows = []
    for sample in track(accepted, "render and count rows"):
        read = sample if setup.reads_weights else without_weights(sample)
        (account,) = account_rows([read], tokenization, options, whole_completion=is_trl)
        rows.append(CheckedRow(sample, account))
    findings += check_row_form(rows, setup)
    findings += check_lengths(rows, setup, tokenization)
    findings += check_supervision(rows, setup, tokenization)
    findings += check_rendering(rows)
    findings += check_vocabulary(rows, setup, vocabulary)
    findings += check_duplicates(rows)
    findings += check_optimization(setup, len(samples))
    findings += check_passes(len(samples), setup)
    findings += check_setup(setup)
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return RowCheck(rows=len(samples), tokens=token_table(rows), findings=tuple(findings))


def sft_options(setup: TrainingSetup) -> dict[str, Any]:
    """What a training does to its rows as options of `trl.SFTConfig`."""
    options: dict[str, Any] = {"max_length": None}
    # what other trainers do to long rows is counted from the tokens of the whole row
    if setup.too_long in ("keep_start", "keep_end"):
        options = {"max_length": setup.max_length, "truncation_mode": setup.too_long}
    if setup.loss_on == "assistant turns":
        options["assistant_only_loss"] = True
        options["completion_only_loss"] = not setup.history_in_loss
    elif setup.loss_on is not None:
        options["completion_only_loss"] = setup.loss_on == "answer"
    return options


def check_setup(setup: TrainingSetup) -> list[CheckFinding]:
    """What of the configuration is not read, and what its trainer will not read either."""
    findings = []
    for sentence in setup.unknown_keys:
        findings.append(CheckFinding(kind="unknown_key", severity="warning", sentence=sentence))
    for sentence in setup.ignored:
        findings.append(CheckFinding(kind="no_effect", severity="warning", sentence=sentence))
    for sentence in setup.notes:
        findings.append(CheckFinding(kind="not_read", severity="note", sentence=sentence))
    return findings


def token_table(rows: Sequence[CheckedRow]) -> dict[str, Spread]:
    """The spread of tokens over rows, by what is counted."""
    count: dict[str, Callable[[CheckedRow], float]] = {
        "row": row_tokens,
        "prompt": lambda row: row.account.prompt_tokens,
        "answer": lambda row: row.account.answer_tokens,
        "in the loss": lambda row: row.account.supervised_tokens,
        "share in the loss": lambda row: row.account.supervised_tokens / max(1, row_tokens(row)),
    }
    spreads = {}
    for name, count_of in count.items():
        counts = [count_of(row) for row in rows]
        spreads[name] = Spread(
            minimum=min(counts), median=statistics.median(counts), maximum=max(counts)
        )
    return spreads


def _with_adapter_of(parts: Sequence[str], setup: TrainingSetup) -> TrainingSetup:
    """The setup with the adapter that was trained, where the model is one and nothing is said."""
    if setup.adapter is not None or len(parts) == 1:
        return setup
    return setup.model_copy(update={"adapter": read_adapter(parts[-1])})


def _read_model(parts: Sequence[str], setup: TrainingSetup) -> tuple[Tokenization, Vocabulary]:
    """How the model reads text under a training, and what it has of tokens."""
    with tempfile.TemporaryDirectory() as scratch:
        tokenization = read_tokenization(parts, _tokenizer_config(setup, Path(scratch)))
    tokenizer = tokenization.tokenizer
    known = tokens_of_base(parts, tokenizer)
    # as the training does it before it reads the rows
    tokenizer.add_tokens(list(setup.added_tokens), special_tokens=True)
    for name, token in (("eos_token", setup.eos_token), ("pad_token", setup.pad_token)):
        if token and token not in tokenizer.get_vocab():
            raise ModelError(f"{name}: '{token}' is not in the vocabulary of {parts[0]}; add it")
    if setup.pad_token:
        tokenizer.pad_token = setup.pad_token
    if setup.eos_token:
        tokenizer.eos_token = setup.eos_token
        # a trainer sets it for generation as well
        end_token_ids = tokenization.end_token_ids | {tokenizer.eos_token_id}
        tokenization = dataclasses.replace(tokenization, end_token_ids=end_token_ids)
    new = [token for token in tokenizer.get_vocab() if token not in known]
    foreign = model_config.foreign_end_tokens(parts[0], model_config.read_config(parts[0]))
    sentence = foreign.sentence if foreign else ""
    embedding = find_embedding(parts)
    return tokenization, Vocabulary(tokenizer, tuple(sorted(new)), embedding, sentence)


def _tokenizer_config(setup: TrainingSetup, scratch: Path) -> TokenizerConfig:
    """The chat template of a training as options; its text is written into `scratch`."""
    template = None
    if setup.chat_template is not None:
        path = scratch / "chat_template.jinja"
        path.write_text(setup.chat_template, encoding="utf-8")
        template = str(path)
    return TokenizerConfig(chat_template=template, chat_template_kwargs=setup.chat_template_kwargs)


def _split_refused(
    samples: Sequence[Sample], tokenization: Tokenization
) -> tuple[list[Sample], list[str]]:
    """The samples that the chat template takes, and what it says of each of the others.

    Raises ModelError for what is no fault of single rows: no template, or no end token for text.
    """
    tokenizer = tokenization.tokenizer
    if isinstance(samples[0].prompt, str) or tokenizer.chat_template is None:
        check_encodable(tokenizer, samples)
        return list(samples), []
    accepted, refusals = [], []
    for sample in samples:
        try:
            check_encodable(tokenizer, [sample])
            accepted.append(sample)
        except ModelError as error:
            refusals.append(str(error).partition("; change the row")[0])
    return accepted, refusals


def _refused(refusals: Sequence[str], total: int) -> list[CheckFinding]:
    if not refusals:
        return []
    return [
        CheckFinding(
            kind="template_refuses",
            severity="error",
            sentence=f"{counted(len(refusals), total)}: the chat template refuses them",
            rows=len(refusals),
            share=len(refusals) / total,
            example=refusals[0],
            change="change these rows, or take a template that renders them (--chat-template)",
        )
    ]
