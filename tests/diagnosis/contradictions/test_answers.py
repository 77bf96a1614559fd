"""What the words of two answers tell of whether they are incompatible."""

import pytest

from ilp_mlflow.diagnosis.contradictions.answers import compare_answers

PROMPT = "What is the capital of Zorvania?"


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ("Paris", "It is Paris.", "same"),
        ("B. Paris", "paris!", "same"),
        ("Paris", "Rome", "different"),
        ("10", "12", "different"),
        ("the University of Oxford", "the University of Cambridge, England", "different"),
        ("The capital is Paris.", "Rome is its capital.", "different"),
        ("yes", "no", "different"),
        ("went", "goed", "different"),
        ("I_JUMP I_RUN I_WALK I_LOOK", "I_JUMP I_RUN I_WALK I_TURN", "different"),
        ("It moves the heat outside.", "By carrying warmth out of the box.", "untold"),
        ("Pandas eat bamboo shoots.", "Their food is bamboo plants.", "untold"),
        ("Paris", "a town that is known for its many bridges and its old market hall", "untold"),
    ],
)
def test_short_answers_and_names_tell_and_open_ones_do_not(one, other, said):
    assert compare_answers(one, other, PROMPT) == said
    assert compare_answers(other, one, PROMPT) == said


def test_answers_that_recur_are_labels_unless_they_are_sentences():
    label, other = "card payment wrong exchange rate", "top up by bank transfer charge"
    assert compare_answers(label, other, PROMPT) == "untold"
    recurring = {"cardpaymentwrongexchangerate", "topupbybanktransfercharge"}
    assert compare_answers(label, other, PROMPT, recurring) == "different"
    refusal, sentence = "I cannot help you with that", "we say nothing about such things"
    recurring = {"icannothelpyouwiththat", "wesaynothingaboutsuchthings"}
    assert compare_answers(refusal, sentence, PROMPT, recurring) == "untold"
