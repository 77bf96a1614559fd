"""What TRL takes rows for, by their columns and the first one."""

import pytest

from ilp_mlflow.core.config import DataConfig
from ilp_mlflow.data.records import number_rows
from ilp_mlflow.data.training_configs.setup import TrainingSetup
from ilp_mlflow.data.training_configs.trl_rows import fit_to_trl, row_form, trl_form
from tests.conftest import write_jsonl

CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
SHAREGPT = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"prompt": "q", "completion": "a"}, "split"),
        ({"prompt": CHAT[:1], "completion": CHAT[1:], "id": 1}, "split"),
        ({"messages": CHAT, "text": "t"}, "messages"),
        ({"conversations": [{"from": "user", "value": "q"}]}, "messages"),
        ({"text": "t"}, "text"),
    ],
)
def test_rows_that_trl_reads(row, kind):
    assert row_form(row) == (kind, "", (), 0)


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"instruction": "q", "output": "a"}, "the rows have instruction, output"),
        ({"messages": SHAREGPT}, "'messages' with roles"),
        ({"conversations": CHAT}, "the rows have conversations"),
        ({"messages": CHAT, "prompt": "q"}, "fails without 'completion'"),
        ({"messages": CHAT, "prompt": "q", "completion": "a"}, "leaves 'messages' alone"),
        ({"text": "t", "prompt": "q"}, "fails without 'completion'"),
    ],
)
def test_rows_that_trl_does_not_train_on(row, fault):
    assert fault in row_form(row).fault


def test_trl_leaves_roles_as_they_are():
    assert row_form({"conversations": SHAREGPT}).roles == ("human", "gpt")


def fitted(tmp_path, row, setup=None, **source):
    path = write_jsonl(tmp_path / "rows.jsonl", [row])
    setup = {"read_from_file": True, "trainer": "TRL", **(setup or {})}
    return fit_to_trl(TrainingSetup(**setup), [DataConfig(path=str(path), **source)])


def test_what_the_user_names_is_converted_by_the_user(tmp_path):
    row = {"question": "q", "answer": "a"}
    assert fitted(tmp_path, row)[0].form_fault
    setup, _ = fitted(tmp_path, row, fields={"prompt": "question", "completion": "answer"})
    assert (setup.form_fault, setup.loss_on) == ("", "answer")
    setup, _ = fitted(tmp_path, {"instruction": "q", "output": "a"}, format="alpaca_prompt")
    assert (setup.form_fault, setup.loss_on) == ("", "answer")


def test_other_trainers_and_no_configuration_are_left_alone(tmp_path):
    for changes in ({"trainer": "axolotl"}, {"read_from_file": False}):
        setup, sources = fitted(tmp_path, {"instruction": "q"}, changes)
        assert (setup, len(sources)) == (TrainingSetup(**{"read_from_file": True, **changes}), 1)


@pytest.mark.parametrize(
    ("row", "options", "loss_on", "history"),
    [
        ({"prompt": "q", "completion": "a"}, {}, "answer", False),
        ({"prompt": "q", "completion": "a"}, {"completion_only": False}, "everything", True),
        ({"messages": CHAT}, {}, "everything", True),
        ({"messages": CHAT}, {"completion_only": True}, "everything", True),
        ({"messages": CHAT}, {"loss_on": "assistant turns"}, "assistant turns", True),
    ],
)
def test_what_is_in_the_loss_depends_on_the_columns(tmp_path, row, options, loss_on, history):
    setup, _ = fitted(tmp_path, row, options)
    assert (setup.loss_on, setup.history_in_loss) == (loss_on, history)


def test_text_has_the_column_that_trl_is_told(tmp_path):
    _, (source,) = fitted(tmp_path, {"text": "t", "content": "c"}, {"text_field": "content"})
    assert source.fields == {"text": "content"}
    _, (source,) = fitted(tmp_path, {"messages": CHAT, "content": "c"}, {"text_field": "content"})
    assert source.fields == {}


PAIR = {"prompt": "q", "completion": "a"}


@pytest.mark.parametrize(
    ("rows", "n_faulty", "fault"),
    [
        ([{"messages": CHAT}] * 3, 0, ""),
        ([PAIR, {**PAIR, "id": 1}, PAIR], 0, ""),
        # a column that one row has is a column of all
        ([{"messages": CHAT}, {"messages": CHAT, "prompt": "q"}], 2, "fails without 'completion'"),
        ([PAIR, PAIR, {"messages": CHAT}], 1, "rows row 3 is not: TRL trains 'prompt'"),
        (
            [{"messages": CHAT}, {"messages": SHAREGPT}, {"messages": SHAREGPT}],
            2,
            "a list of messages, and rows row 2 is not: TRL reads 'messages' with roles",
        ),
        ([{"messages": CHAT}, {"text": "t"}], 1, "rows row 2 is not: it is of another form"),
        ([{"instruction": "q", "output": "a"}] * 2, 2, "the rows have instruction, output"),
    ],
)
def test_every_row_counts(rows, n_faulty, fault):
    form = trl_form(list(number_rows(rows, "rows")))
    assert form.faulty_rows == n_faulty
    assert fault in form.fault
    assert bool(form.fault) == bool(n_faulty)


def test_roles_of_any_row_count():
    rows = [{"conversations": [{"from": "user", "value": "q"}]}, {"conversations": SHAREGPT}]
    assert trl_form(list(number_rows(rows, "rows"))).roles == ("human", "gpt")


def test_no_rows_are_no_trouble():
    assert trl_form([]).roles == ()
