"""What models give for every token of the right answers, as a table: 12 bytes a token."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from transformers import PreTrainedTokenizerBase

from ilp_mlflow.core.values import Score, to_table
from ilp_mlflow.scoring.scorer import SampleScore
from ilp_mlflow.scoring.tokens.token_texts import token_texts
from ilp_mlflow.scoring.tokens.token_trees import ScoringPlan

COLUMNS = ("logprobs", "best_logprobs", "best_ids")
"""Columns of lists with one number for each token; see `AnswerTokens`."""


def scores_with_tokens(scored: Sequence[SampleScore]) -> pa.Table:
    """Scores in the columns of `Score`, and those of their tokens in COLUMNS beside them."""
    table = to_table([one.score for one in scored], Score)
    for name, kind in zip(COLUMNS, (pa.float32(), pa.float32(), pa.int32()), strict=True):
        lists = [getattr(one.tokens, name) for one in scored]
        table = table.append_column(name, pa.array(lists, pa.list_(kind)))
    return table


def without_tokens(table: pa.Table) -> pa.Table:
    """The columns of `Score` alone."""
    return table.drop_columns(list(COLUMNS))


def tokens_alone(table: pa.Table) -> pa.Table:
    """Sample, checkpoint and COLUMNS alone, of the samples that are scored."""
    return table.select(["sample_id", "checkpoint", *COLUMNS]).filter(pc.is_null(table["unscored"]))


def answer_texts(plan: ScoringPlan, tokenizer: PreTrainedTokenizerBase) -> pa.Table:
    """What each token of every sample's right answer says: sample_id, and texts as a list."""
    ids, texts = list[str](), list[list[str]]()
    for batch in plan.sample_batches:
        for sample in batch:
            ids.append(sample.sample_id)
            answer = sample.tree.sequence(0)[sample.tree.start(0) :]
            texts.append(token_texts(tokenizer, answer))
    return pa.table({"sample_id": ids, "texts": pa.array(texts, pa.list_(pa.string()))})


def first_choice_texts(tokens: pa.Table, tokenizer: PreTrainedTokenizerBase) -> pa.Table:
    """What the first choices among `tokens` say: id and text, each once."""
    ids = pc.unique(pc.list_flatten(tokens["best_ids"])).to_pylist()
    texts = [tokenizer.decode([token]) for token in ids]
    return pa.table({"id": pa.array(ids, pa.int32()), "text": pa.array(texts, pa.string())})
