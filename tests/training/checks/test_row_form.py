"""Rows that their trainer reads otherwise than they are written."""

from ilp_mlflow.core.texts import Message
from ilp_mlflow.data.training_configs.setup import TrainingSetup
from ilp_mlflow.training.checks.row_form import check_row_form, without_weights
from tests.training.checks.accounts import chat_row, kinds, row

TURNS = (
    Message(role="user", content="q"),
    Message(role="assistant", content="a", weight=0),
    Message(role="user", content="q"),
    Message(role="assistant", content="b", weight=1, name="x"),
)


def weighted():
    return row(prompt=TURNS[:-1], completion=TURNS[-1:])


def test_a_weight_that_is_not_read_is_told_where_it_would_count():
    rows = [weighted(), chat_row(2, "q", "a"), row(3)]
    setup = TrainingSetup(reads_weights=False, loss_on="everything")
    assert kinds(check_row_form(rows, setup)) == [("weight_not_read", "warning", 1)]
    assert check_row_form(rows, TrainingSetup(loss_on="everything")) == []
    # the first turn is not trained there anyway
    assert check_row_form(rows, TrainingSetup(reads_weights=False, loss_on="answer")) == []


def test_weights_are_taken_out_and_nothing_else():
    plain = without_weights(weighted().sample)
    assert not plain.leaves_earlier_turns_out
    assert plain.completion.turns[0].as_dict() == {
        "role": "assistant",
        "content": "b",
        "name": "x",
    }
    assert without_weights(row().sample) == row().sample


def test_faults_of_the_form_and_roles_are_told_once():
    setup = TrainingSetup(
        form_fault="TRL reads none of it", form_fault_rows=2, foreign_roles=("human",)
    )
    form, roles = check_row_form([row(1), row(2)], setup)
    assert kinds([form, roles]) == [
        ("form_not_read", "error", 2),
        ("roles_as_written", "warning", 0),
    ]
    assert "the roles human" in roles.sentence
