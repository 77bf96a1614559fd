"""Tokens that the rows or the configuration speak of, against those that the model has."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from ilp_mlflow.core.texts import Conversation
from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.training_configs.setup import AdapterSetup, TrainingSetup
from ilp_mlflow.training.checks.embeddings import Embedding, LoadedEmbedding
from ilp_mlflow.training.checks.finding import CheckedRow, CheckFinding, row_finding
from ilp_mlflow.training.checks.trained_tokens import TRAIN_NEW_TOKENS, trains_embeddings

CONTROL = re.compile(r"<\|[^|<>\s]{1,40}\|>")
"""A text written as the control tokens of chat models are: `<|im_start|>`."""
TAG = re.compile(r"</?[A-Za-z_][\w:-]{0,30}>|\[/?[A-Z][A-Z_]{1,20}\]")
"""A text written as a tag: `<sql>`, `</tool_call>`, `[INST]`."""
COMMON_TAG = 0.1
"""Share 0..1 of rows with a tag from which it may have been meant as one token."""
MAX_SHOWN = 5
"""Tokens that a sentence names."""


class Vocabulary(NamedTuple):
    """What is known of a model's tokens without loading it."""

    tokenizer: PreTrainedTokenizerBase
    """With the tokens added that the training adds."""
    new_tokens: tuple[str, ...]
    """Tokens that the base does not have."""
    embedding: Embedding | LoadedEmbedding
    """What the files, or the loaded model, say of its rows."""
    foreign_ends: str = ""
    """What is wrong with the end tokens of its generation settings; "" where nothing is."""


def check_vocabulary(
    rows: Sequence[CheckedRow], setup: TrainingSetup, vocabulary: Vocabulary
) -> list[CheckFinding]:
    """Tokens nobody trains, tokens beyond the embedding, and markers that are many tokens."""
    return [
        *_untrained_tokens(rows, setup, vocabulary),
        *_beyond_embedding(rows, setup, vocabulary),
        *_split_markers(rows, vocabulary.tokenizer),
        *_special_in_text(rows, vocabulary.tokenizer),
        *_foreign_ends(vocabulary),
    ]


def _untrained_tokens(
    rows: Sequence[CheckedRow], setup: TrainingSetup, vocabulary: Vocabulary
) -> list[CheckFinding]:
    """New tokens whose embeddings the adapter leaves as they were made."""
    if setup.adapter is None or _trains_new_tokens(setup.adapter, setup, vocabulary):
        return []
    tokens = [*vocabulary.new_tokens, *_made_and_never_trained(rows, vocabulary)]
    faulty = [row for row in rows if first_in(tokens, _rendered(row))]
    what = f"the embeddings of the new tokens {named(tokens)} are not trained by the adapter"
    if tokens and not faulty:
        return [
            CheckFinding(
                kind="untrained_tokens",
                severity="warning",
                sentence=f"{what}; no row has one of them",
                change=TRAIN_NEW_TOKENS,
            )
        ]
    return row_finding(
        "untrained_tokens",
        "error",
        faulty,
        len(rows),
        what,
        lambda row: f"has {first_in(tokens, _rendered(row))}",
        TRAIN_NEW_TOKENS,
    )


def _made_and_never_trained(rows: Sequence[CheckedRow], vocabulary: Vocabulary) -> list[str]:
    """Added tokens of the rows whose embeddings are as they were made, to go by the weights."""
    id_by_token = {
        token: number
        for token, number in vocabulary.tokenizer.get_added_vocab().items()
        if token not in vocabulary.new_tokens
    }
    text = "".join(_rendered(row) for row in rows)
    used = {token: number for token, number in id_by_token.items() if token in text}
    untrained = vocabulary.embedding.untrained(list(used.values()))
    return [token for token, number in used.items() if number in untrained]


def _trains_new_tokens(adapter: AdapterSetup, setup: TrainingSetup, vocabulary: Vocabulary) -> bool:
    """Whether an adapter trains the rows of new tokens in some way."""
    # tokens that the model has already are not added again
    adds_tokens = any(token in vocabulary.new_tokens for token in setup.added_tokens)
    trains_added = adapter.trains_added_tokens and adds_tokens
    return trains_embeddings(adapter.model_copy(update={"trains_added_tokens": trains_added}))


def _beyond_embedding(
    rows: Sequence[CheckedRow], setup: TrainingSetup, vocabulary: Vocabulary
) -> list[CheckFinding]:
    """Tokens whose ids the embedding has no row for, unless the training adds them."""
    ids = vocabulary.tokenizer.get_vocab()
    beyond = [
        token
        for token, number in ids.items()
        if number >= vocabulary.embedding.rows and token not in setup.added_tokens
    ]
    if not beyond:
        return []
    change = "resize the embedding (model.resize_token_embeddings), or take the base's tokenizer"
    larger = (
        f"the tokenizer has {max(ids.values()) + 1} ids and the embedding "
        f"{vocabulary.embedding.rows} rows: {named(sorted(beyond))}"
    )
    faulty = [row for row in rows if first_in(beyond, _rendered(row))]
    if faulty:
        return row_finding(
            "beyond_the_embedding",
            "error",
            faulty,
            len(rows),
            f"tokens that the model has no embedding for ({larger})",
            lambda row: f"has {first_in(beyond, _rendered(row))}",
            change,
        )
    return [
        CheckFinding(
            kind="tokenizer_larger",
            severity="warning",
            sentence=f"{larger}; no row has one of them, padding may",
            change=change,
        )
    ]


def _split_markers(
    rows: Sequence[CheckedRow], tokenizer: PreTrainedTokenizerBase
) -> list[CheckFinding]:
    """Texts in the rows that look like one token, and are several to this tokenizer."""
    rows_by_marker: dict[str, list[CheckedRow]] = {}
    for row in rows:
        text = own_text(row.sample)
        for marker in sorted({*CONTROL.findall(text), *TAG.findall(text)}):
            rows_by_marker.setdefault(marker, []).append(row)
    vocabulary = tokenizer.get_vocab()
    findings = []
    for marker, faulty in list(rows_by_marker.items()):
        is_control = CONTROL.fullmatch(marker) is not None
        if marker in vocabulary or not (is_control or len(faulty) > COMMON_TAG * len(rows)):
            continue
        tokens = tokenizer.tokenize(marker)
        findings += row_finding(
            "split_marker",
            "warning" if is_control else "note",
            faulty,
            len(rows),
            f"{marker} is {len(tokens)} tokens to the model, not one",
            change="add it to the vocabulary, and train its embedding, where it is meant as one"
            if is_control
            else "",
        )
    return sorted(findings, key=lambda finding: -finding.rows)[:MAX_SHOWN]


def _special_in_text(
    rows: Sequence[CheckedRow], tokenizer: PreTrainedTokenizerBase
) -> list[CheckFinding]:
    """Conversations that hold special tokens in their turns, which the template puts around them.

    A row of plain text is expected to hold them.
    """
    specials = [token for token in tokenizer.all_special_tokens if len(token) > 1]
    faulty = [
        row
        for row in rows
        if not isinstance(row.sample.prompt, str) and first_in(specials, own_text(row.sample))
    ]
    return row_finding(
        "special_token_in_text",
        "warning",
        faulty,
        len(rows),
        "special tokens stand in the turns themselves, where the model reads them as its own",
        lambda row: f"has {first_in(specials, own_text(row.sample))}",
        "was a template put into the rows already? Then take it out",
    )


def _foreign_ends(vocabulary: Vocabulary) -> list[CheckFinding]:
    """End tokens that the model does not have."""
    if not vocabulary.foreign_ends:
        return []
    return [
        CheckFinding(
            kind="end_token_unknown",
            severity="warning",
            sentence=vocabulary.foreign_ends,
            change="write the end token's own id in generation_config.json and config.json (the "
            "tokenizer's eos_token_id)",
        )
    ]


def own_text(sample: Sample) -> str:
    """All text of a sample that the trainer renders, as one text."""
    if isinstance(sample.prompt, str):
        return f"{sample.prompt}\n{sample.completion}"
    assert isinstance(sample.completion, Conversation)
    turns = sample.prompt.as_dicts() + sample.completion.as_dicts()
    return "\n".join(json.dumps(turn, ensure_ascii=False) for turn in turns)


def _rendered(row: CheckedRow) -> str:
    return "".join(segment.text for segment in row.account.segments)


def first_in(tokens: Sequence[str], text: str) -> str | None:
    """The first of some tokens that a text holds."""
    return next((token for token in tokens if token in text), None)


def named(tokens: Sequence[str]) -> str:
    """Some tokens for a sentence, the first MAX_SHOWN of them by name."""
    more = len(tokens) - MAX_SHOWN
    shown = ", ".join(tokens[:MAX_SHOWN])
    return f"{shown} and {more} more" if more > 0 else shown
