"""Tokens of the rows and of the configuration against those of the model."""

import pytest
from transformers import AutoTokenizer

from ilp_mlflow.data.training_configs.setup import AdapterSetup, TrainingSetup
from ilp_mlflow.training.accounts.row_account import Segment
from ilp_mlflow.training.checks.embeddings import Embedding
from ilp_mlflow.training.checks.vocabulary import Vocabulary, check_vocabulary
from tests.training.checks.accounts import chat_row, kinds, row

LAYERS = AdapterSetup(target_modules=("q_proj", "v_proj"))


@pytest.fixture
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


def check(rows, tokenizer, new=(), embedding_rows=10**6, **setup):
    tokenizer.add_tokens(list(new), special_tokens=True)
    vocabulary = Vocabulary(tokenizer, tuple(new), Embedding(embedding_rows, None, ""))
    return check_vocabulary(rows, TrainingSetup(**setup), vocabulary)


def saying(number, text):
    return row(number, completion=text, segments=(Segment(text=text, kind="supervised"),))


def test_plain_rows_are_no_finding(tokenizer):
    assert check([row(1)], tokenizer, adapter=LAYERS) == []


def test_new_tokens_that_the_adapter_does_not_train(tokenizer):
    rows = [saying(1, "<sql>x"), saying(2, "x")]
    (finding,) = check(rows, tokenizer, new=["<sql>"], adapter=LAYERS)
    assert kinds([finding]) == [("untrained_tokens", "error", 1)]
    assert finding.example == "sample 's1': has <sql>"
    (unused,) = check([saying(1, "x")], tokenizer, new=["<sql>"], adapter=LAYERS)
    assert kinds([unused]) == [("untrained_tokens", "warning", 0)]


@pytest.mark.parametrize(
    "adapter",
    [
        None,
        AdapterSetup(modules_to_save=("embed_tokens", "lm_head")),
        AdapterSetup(modules_to_save=("model.embed_tokens",)),
        AdapterSetup(target_modules=("embed_tokens", "q_proj")),
        AdapterSetup(token_rows=("embed_tokens",)),
    ],
)
def test_new_tokens_that_are_trained_in_some_way(tokenizer, adapter):
    assert check([saying(1, "<sql>x")], tokenizer, new=["<sql>"], adapter=adapter) == []


@pytest.mark.parametrize(("added", "found"), [(["<sql>"], 0), ([], 1)])
def test_a_trainer_that_trains_what_it_adds_trains_no_token_that_was_there(tokenizer, added, found):
    adapter = AdapterSetup(trains_added_tokens=True)
    rows = [saying(1, "<sql>x")]
    findings = check(rows, tokenizer, new=["<sql>"], adapter=adapter, added_tokens=added)
    assert len(findings) == found


def test_tokens_that_the_embedding_has_no_row_for(tokenizer):
    rows = len(tokenizer)
    tokenizer.add_tokens(["<sql>"])
    (used,) = check([saying(1, "<sql>x")], tokenizer, embedding_rows=rows)
    assert kinds([used]) == [("beyond_the_embedding", "error", 1)]
    (unused,) = check([saying(1, "x")], tokenizer, embedding_rows=rows)
    assert kinds([unused]) == [("tokenizer_larger", "warning", 0)]
    # the training adds it, and makes a row for it
    assert (
        check([saying(1, "<sql>x")], tokenizer, embedding_rows=rows, added_tokens=["<sql>"]) == []
    )


def test_what_is_written_as_one_token_and_is_several(tokenizer):
    rows = [saying(n, "plain") for n in range(20)]
    control = check([*rows, saying(21, "<|call|>x")], tokenizer)
    assert kinds(control) == [("split_marker", "warning", 1)]
    assert "<|call|> is " in control[0].sentence
    # a tag here and there is text
    assert check([*rows, saying(21, "<b>x")], tokenizer) == []
    tags = check([saying(1, "<b>x"), saying(2, "x")], tokenizer)
    assert kinds(tags) == [("split_marker", "note", 1)]
    assert check([saying(1, "<|end|>")], tokenizer) == []


def test_special_tokens_in_the_turns_of_a_conversation(tokenizer):
    (finding,) = check([chat_row(1, "<|end|> Hi", "Ho"), chat_row(2, "a", "b")], tokenizer)
    assert kinds([finding]) == [("special_token_in_text", "warning", 1)]
