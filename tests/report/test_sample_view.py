"""One sample as the model saw it, and what is known of it."""

import pytest

from ilp_mlflow.core.values import Exposure
from ilp_mlflow.report.sample_view import SampleView, _near, view_lines
from ilp_mlflow.training.accounts.row_account import RowAccount, Segment
from tests.training.checks.accounts import FINE

SEGMENTS = (
    Segment(text="<|user|>Who?\n<|assistant|>", kind="prompt"),
    Segment(text="<think></think>", kind="masked"),
    Segment(text="Lima", kind="supervised"),
    Segment(text="<|end|>", kind="cut"),
)


def shown(coloured=False, segments=SEGMENTS, exposures=None, **fields):
    account_fields = {k: fields.pop(k) for k in list(fields) if k in FINE}
    account = RowAccount(**{**FINE, "segments": segments, **account_fields})
    view = SampleView(account=account, exposures=exposures, **fields)
    return "\n".join(view_lines(view, lambda text, colour: f"<{colour}>{text}</>", coloured))


def test_what_is_no_prompt_is_marked():
    text = shown()
    assert "<|user|>Who?\n<|assistant|>((<think></think>))[[Lima]]{{<|end|>}}" in text
    assert "[[text]] in the loss" in text
    assert "((text)) of the answer, and in no loss" in text


def test_colours_stand_in_for_marks():
    text = shown(coloured=True)
    assert "<|assistant|><yellow><think></think></><green>Lima</><red><|end|></>" in text
    assert "[[" not in text


def test_only_the_marks_that_occur_are_explained():
    text = shown(segments=SEGMENTS[:1])
    assert "in no loss" not in text
    assert "[[" not in text


def test_a_terminal_gets_no_commands_from_a_row():
    text = shown(segments=(Segment(text="a\x1b[2Jb", kind="prompt"),))
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "tokens     6 of prompt, 4 of answer; 4 in the loss, 4 of them the answer's"),
        ({}, "trained    not known: the training left no ledger"),
        ({}, "end        <|end|>: in the loss; the model stops at it"),
        ({"end_stops": False}, "end        <|end|>: in the loss; no end token of the model"),
        ({"end_token": None}, "end        no token ends the answer"),
        ({"cut_tokens": 3}, "cut        3 tokens"),
        ({"weight_zero": True}, "weight     0: the row takes its answer out of the loss"),
        (
            {"weight_zero": True, "assumed": True},
            "weight     0: the row takes its answer out of the loss; unknown whether its",
        ),
        ({"dropped": ("tools: '[]'",)}, "dropped    tools: '[]' (nowhere in the text above)"),
        ({"exposures": ()}, "trained    never: it was in no batch"),
        ({"status": "unlearned"}, "verdict    unlearned"),
        ({"cause": "not_trained", "strength": 1.0}, "cause      not_trained (1.00)"),
        ({"cause": "unexplained"}, "cause      unexplained"),
    ],
)
def test_every_fact_has_a_line(fields, line):
    assert line in shown(**fields).splitlines()


def test_how_often_it_was_trained():
    exposure = Exposure(
        sample_id="s", stage="facts", exposures=3, supervised_tokens=4, truncated_tokens=0
    )
    assert "3 times in stage 'facts', 4 tokens in the loss" in shown(exposures=(exposure,))


def test_an_id_that_is_not_there_is_told_what_it_may_have_been():
    known = [f"facts/{number}" for number in range(1, 500)]
    assert _near("fact/12", known).startswith("did you mean 'facts/12'")
    assert _near("x", known) == "it has 499, such as 'facts/1', 'facts/2', 'facts/3'"
