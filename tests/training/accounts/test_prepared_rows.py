"""What a trainer made of each sample, read from the data set that it prepared."""

import datasets
import pytest

from ilp_mlflow.core.errors import ConfigError
from ilp_mlflow.scoring.models.tokenization import read_tokenization
from ilp_mlflow.scoring.tokens.encoding import encode, encode_sample
from ilp_mlflow.training.accounts.prepared_rows import (
    IGNORED,
    mask_left_out,
    match_rows,
    read_numbered_rows,
    row_key,
)
from tests.training.test_trainer import stage


@pytest.fixture
def text(tiny_model):
    return read_tokenization([str(tiny_model)])


@pytest.fixture
def encoded(text):
    return [
        encode(text.tokenizer, s.prompt, s.completion, text.end_token_ids) for s in stage().samples
    ]


def labelled(row, start):
    """Token ids and labels of one row, the tokens before `start` without a label."""
    return {"input_ids": row, "labels": [IGNORED] * min(start, len(row)) + row[start:]}


def test_numbered_rows_are_counted_by_their_number(text, encoded):
    first, second = stage().samples[:2]
    limit = len(encoded[1].ids) - 1
    prepared = [{**labelled(encoded[1].ids[:-1], encoded[1].start), "row": 1}]
    dropped, cut = read_numbered_rows([first, second], text, prepared, {"max_length": limit})
    assert dropped.row_tokens == 0
    assert dropped.whole_tokens == len(encoded[0].ids)
    assert (cut.row_tokens, cut.whole_tokens) == (limit, limit + 1)
    assert cut.account.supervised_answer_tokens == limit - encoded[1].start
    assert cut.account.cut_tokens == 1


def test_the_first_token_of_a_row_is_never_supervised(text, encoded):
    (sample,) = stage().samples[:1]
    prepared = [{**labelled(encoded[0].ids, 0), "row": 0}]
    (row,) = read_numbered_rows([sample], text, prepared, {"completion_only_loss": False})
    assert row.account.supervised_tokens == len(encoded[0].ids) - 1


def test_a_row_that_trl_prepared_otherwise_is_named(text, encoded):
    (sample,) = stage().samples[:1]
    prepared = [{**labelled([*encoded[0].ids, 300], encoded[0].start), "row": 0}]
    with pytest.raises(ConfigError, match="TRL would train it on other tokens"):
        read_numbered_rows([sample], text, prepared, {})


def test_a_row_of_weight_0_has_no_answer_in_the_loss(text):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    left_out = [turns[0], {**turns[1], "weight": 0}]
    samples = stage([{"messages": turns}, {"messages": left_out}]).samples
    encoded = [encode_sample(sample, text) for sample in samples]
    rows = [labelled([*row.ids, *row.tail], row.start) for row in encoded]
    prepared = datasets.Dataset.from_list([{**row, "row": n} for n, row in enumerate(rows)])
    (kept,) = mask_left_out(prepared, samples, text, {}).to_list()
    assert kept == {**rows[0], "row": 0}
    whole_sequence = {"completion_only_loss": False}
    trained, masked = mask_left_out(prepared, samples, text, whole_sequence).to_list()
    assert trained == {**rows[0], "row": 0}
    start = encoded[1].start
    assert masked["labels"] == [
        *rows[1]["input_ids"][:start],
        *[IGNORED] * (len(rows[1]["labels"]) - start),
    ]


@pytest.mark.parametrize("keeps_end", [False, True])
def test_rows_are_matched_where_they_were_cut(text, encoded, keeps_end):
    length = 5
    cut = slice(-length, None) if keeps_end else slice(None, length)
    whole = encoded[0]
    row = whole.ids[cut]
    # all tokens have a label, of which only those of the answer count
    prepared = datasets.Dataset.from_list([labelled(row, 0)])
    options = {"truncation_mode": "keep_end" if keeps_end else "keep_start"}
    (matched,) = match_rows(stage().samples[:1], text, prepared, options)
    start = max(0, whole.start - (len(whole.ids) - length)) if keeps_end else whole.start
    assert matched.first_counted == start
    assert matched.account.supervised_answer_tokens == max(0, length - max(1, start))
    assert matched.account.cut_tokens == len(whole.ids) - length
    assert matched.key == row_key(row, row)


def test_rows_are_those_of_the_table_below_a_shuffled_and_filtered_data_set(text, encoded):
    rows = [labelled(row.ids, row.start) for row in encoded]
    prepared = datasets.Dataset.from_list(rows).filter(lambda _, i: i != 2, with_indices=True)
    matched = match_rows(stage().samples, text, prepared.shuffle(seed=0), {})
    assert [row.key for row in matched] == [
        row_key(row["input_ids"], row["labels"]) for row in rows
    ]


def test_tokens_that_a_template_adds_behind_the_end_token_do_not_matter(text, encoded):
    row = labelled([*encoded[0].ids, 300], encoded[0].start)
    (matched,) = match_rows(stage().samples[:1], text, datasets.Dataset.from_list([row]), {})
    assert matched.account.cut_tokens == 0


def test_other_rows_are_refused(text, encoded):
    rows = datasets.Dataset.from_list([labelled(row.ids, row.start) for row in encoded])
    samples = stage().samples
    with pytest.raises(ConfigError, match="has 7 rows, the trainer 8"):
        match_rows(samples[:7], text, rows, {})
    with pytest.raises(ConfigError, match="sample 'Norway': the trainer has other tokens"):
        match_rows((samples[0], samples[2], *samples[2:]), text, rows, {})
    with pytest.raises(ConfigError, match="the trainer's rows are streamed"):
        match_rows(samples, text, rows.to_iterable_dataset(), {})
