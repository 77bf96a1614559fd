"""The experiment that compares text with turns, in its smallest form."""

from experiments.real import forms
from ilp_mlflow.core.texts import Conversation
from ilp_mlflow.scoring.models import loading
from ilp_mlflow.scoring.speaking.probe import ModelProbe


def test_the_same_rows_are_asked_in_both_forms(tiny_model):
    loaded = loading.load_model([str(tiny_model)])
    probe = ModelProbe(lambda _: loaded)
    rows = forms.rows_of("symbol", forms.random.Random(0))
    turns = list(map(forms.as_turns, rows))
    assert all(isinstance(row.prompt, Conversation) for row in turns)
    assert [row.answer.strip() for row in turns] == [row.answer.strip() for row in rows]
    some = slice(forms.EXAMPLES, forms.EXAMPLES + 2)
    of_text = forms.right_answers(probe, rows[: forms.EXAMPLES], rows[some])
    of_turns = forms.right_answers(probe, turns[: forms.EXAMPLES], turns[some])
    assert of_text[1::2] == of_turns[1::2] == [6, 2]
