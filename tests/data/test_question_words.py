"""Which words of a prompt say what it asks, and which are another one, mistyped."""

import pytest

from ilp_mlflow.data.question_words import (
    ASKING_WORDS,
    OWNS,
    deletion_keys,
    is_one_edit,
    is_slip,
    mistyped_asking_word,
    prompt_words,
)
from tests.conversations import chat


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("Name Perú's capital!", ["name", "peru", OWNS, "capital"]),
        ("5.0 + 3 - 1,000", ["5", "+", "3", "-", "1000"]),
        ("Isn't it 'off'?", ["is", "not", "it", "off"]),
        ("well-known - and covid-19", ["well", "known", "and", "covid", "19"]),
        ("the 3rd b2b", ["the", "3rd", "b2b"]),
        ("フランスの首都", list("フランスの首都")),
        (chat(system="Be short.", user="Who?"), ["be", "short", "who"]),
        ("?!", []),
    ],
)
def test_words_are_read_without_what_does_not_count(prompt, words):
    assert prompt_words(prompt) == words


def test_words_that_change_a_question_are_no_asking_words():
    telling = "who when where why how was were did not no never my your and or from to off without"
    assert ASKING_WORDS.isdisjoint(telling.split())


@pytest.mark.parametrize(
    ("word", "other"),
    [
        ("zorvania", "zorvaina"),
        ("mnay", "many"),
        ("captal", "capital"),
        ("kivabbadi", "kivabadi"),
        ("capitsl", "capital"),
    ],
)
def test_slips_of_a_finger(word, other):
    assert is_slip(word, other)
    assert is_slip(other, word)
    assert is_one_edit(word, other)
    assert deletion_keys(word) & deletion_keys(other)


@pytest.mark.parametrize(
    ("word", "other"),
    [
        ("iceland", "ireland"),
        ("dominica", "dominican"),
        ("gambia", "zambia"),
        ("walk", "talk"),
        ("hot", "hat"),
        ("off", "of"),
        ("iran", "iraq"),
        ("grenada", "granada"),
        ("1998", "1989"),
        ("same", "same"),
        ("niger", "nigeria"),
    ],
)
def test_other_words_are_no_slips(word, other):
    assert not is_slip(word, other)
    assert not is_slip(other, word)


def test_words_that_only_ask_are_known_by_one_slip():
    assert all(map(mistyped_asking_word, ["teh", "waht", "wat", "nmae", "plese", "tel"]))
    assert not any(
        map(mistyped_asking_word, ["three", "dose", "hat", "name", "tall", "no", "game"])
    )
