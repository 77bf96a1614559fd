"""What is in the loss, and what is not."""

import types

from ilp_mlflow.data.training_configs.setup import TrainingSetup
from ilp_mlflow.training.checks.supervision import check_supervision
from tests.training.checks.accounts import kinds, row

NOTHING = {"supervised_tokens": 0, "supervised_answer_tokens": 0, "end_supervised": False}


def check(rows, template="", pad="<pad>", **setup):
    tokenizer = types.SimpleNamespace(
        chat_template=template,
        pad_token=pad,
        convert_ids_to_tokens=lambda ids: [f"<token {number}>" for number in ids],
    )
    tokenization = types.SimpleNamespace(tokenizer=tokenizer, end_token_ids=frozenset({7}))
    return check_supervision(rows, TrainingSetup(**{"loss_on": "answer", **setup}), tokenization)


def test_a_row_whose_answer_is_in_the_loss_is_no_finding():
    assert check([row(1)]) == []


def test_rows_without_a_token_in_the_loss():
    findings = check([row(1), row(2, **NOTHING, cut_tokens=4)])
    assert kinds(findings) == [("no_token_in_the_loss", "error", 1)]
    assert "4 of the row are cut" in findings[0].example


def test_a_weight_of_0_is_what_the_row_asks_for():
    assert kinds(check([row(1, **NOTHING, weight_zero=True)])) == [("weight_0", "note", 1)]


def test_prompts_in_the_loss():
    both = row(1, supervised_tokens=10)
    (finding,) = check([both], loss_on="everything")
    assert kinds([finding]) == [("prompt_in_the_loss", "note", 1)]
    assert "6 of the 10 tokens in the loss are the prompt's" in finding.example
    # turns of the assistant before the last are meant to be trained
    assert check([both], loss_on="assistant turns") == []
    axolotl = check([both], loss_on="everything", trainer="axolotl")
    assert axolotl[0].change == "set train_on_inputs: false to train answers alone"


def test_the_end_token_is_not_in_the_loss():
    rows = [
        row(1),
        row(2, end_supervised=False),
        row(3, end_token=None, end_supervised=False, end_stops=False),
        # said among the rows that are cut
        row(4, end_supervised=False, cut_tokens=3),
    ]
    (finding,) = check(rows)
    assert kinds([finding]) == [("end_not_in_the_loss", "warning", 2)]
    assert "ends with <|end|>, which is in no loss" in finding.example
    (none,) = check([row(1)], end_in_loss=False, trainer="axolotl")
    assert (none.rows, none.change) == (1, "set train_on_eos: turn")


def test_the_end_token_stops_nothing():
    (finding,) = check([row(1, end_stops=False)])
    assert kinds([finding]) == [("end_does_not_stop", "warning", 1)]
    assert "its end tokens are <token 7>" in finding.sentence
    assert "set eos_token to <|end|>" in finding.change


def test_padding_that_is_the_end_is_a_note():
    assert kinds(check([row(1)], pad="<|end|>")) == [("padding_is_the_end", "note", 1)]
