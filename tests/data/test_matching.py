import pytest

from ilp_mlflow.data.matching import (
    answer_key,
    contains_answer,
    excerpt,
    is_part_of,
    normalize_answer,
    option_label,
    prompt_key,
    prompt_text,
    same_answer,
    with_answer,
    without_label,
)
from tests.conversations import chat

SAME = [
    ("Paris", " paris. "),
    ("B. Paris", "Paris"),
    ("(b) Paris", "paris"),
    ("1,000", "1000.0"),
    ("0.50", ".5"),
    ("the Netherlands", "Netherlands"),
    ("ice cream", "Ice-cream"),
    ("U.S.A.", "USA"),
    ("don\u2019t", "Dont"),
    ("\u22125", "-5"),
    ("你好。", "你好"),
    ("A", "a."),
]
"""Answers that say the same."""
DIFFERENT = [
    ("C", "C++"),
    ("+", "-"),
    ("{", "}"),
    ("x > 1", "x < 1"),
    ("-5", "5"),
    ("!", "?"),
    ("1 2", "12"),
    ("10:30", "1030"),
    ("3.5", "35"),
    ("5%", "5"),
    ("1.20.3", "1.2.3"),
    ("你好", "再见"),
    ("A", "The"),
    ("vitamin A", "vitamin"),
    ("😀", "😃"),
]
"""Answers that say different things, though little tells them apart."""
CHAT = chat(system="Be brief.", user="Is it 5?")


@pytest.mark.parametrize(("a", "b"), SAME)
def test_answers_that_say_the_same_have_one_key(a, b):
    assert answer_key(a) == answer_key(b)


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_answers_that_say_different_things_have_different_keys(a, b):
    assert answer_key(a) != answer_key(b)


@pytest.mark.parametrize(
    ("answer", "normalized"),
    [
        ("B. The Ice-cream, 1,000.0 g!", "ice cream 1000 g"),
        (" An owl ", "owl"),
        ("a", "a"),
        (".50", "0.5"),
        ("-3.10", "-3.1"),
        ("5!", "5"),
        ("10:30.", "10:30"),
        ("? !", "?!"),
        ("E\u0301TE\u0301", "\u00e9t\u00e9"),
        ("", ""),
    ],
)
def test_a_normalized_answer_is_the_words_that_count(answer, normalized):
    assert normalize_answer(answer) == normalized


@pytest.mark.parametrize(
    ("shorter", "longer", "is_part"),
    [
        ("york", "new york", True),
        ("york", "yorkshire", False),
        ("new york", "york", False),
        ("spam", "not spam", False),
        ("not spam", "it is not spam", True),
        ("5", "$5", True),
        ("猫", "黒猫", True),
        ("猫", "犬", False),
    ],
)
def test_a_part_is_a_stretch_of_whole_words_without_a_negation(shorter, longer, is_part):
    assert is_part_of(shorter, longer) is is_part


def test_answers_are_the_same_whichever_says_more_and_words_are_not_meanings():
    assert same_answer("Paris", "It is Paris.")
    assert same_answer("It is Paris.", "Paris")
    assert same_answer("1,000", "1000")
    assert not same_answer("10", "ten")
    assert not same_answer("Paris", "not Paris")


def test_an_answer_is_contained_in_one_that_says_more_and_not_the_other_way_round():
    assert contains_answer("It is Paris.", "Paris")
    assert contains_answer("PARIS", "Paris")
    assert not contains_answer("Paris", "It is Paris.")


def test_a_completion_keeps_its_white_space_and_its_earlier_turns_with_another_answer():
    assert with_answer("\n Paris", " Rome ") == "\n Rome"
    turns = chat(user="a", assistant="b")
    assert with_answer(turns, "c") == chat(user="a", assistant="c")


@pytest.mark.parametrize(
    ("option", "label", "text"),
    [
        ("B. Paris", "B", "Paris"),
        (" (b) Paris ", "b", "Paris"),
        ("3: Paris", "3", "Paris"),
        ("B.Paris", "", "B.Paris"),
        ("B.", "", "B."),
        ("K. Paris", "", "K. Paris"),
        ("12. Paris", "", "12. Paris"),
    ],
)
def test_a_label_is_one_letter_or_digit_in_front_of_a_text(option, label, text):
    assert option_label(option) == label
    assert without_label(option) == text


def test_the_text_of_a_prompt_is_that_of_all_its_turns():
    assert prompt_text("Is it 5?") == "Is it 5?"
    assert prompt_text(CHAT) == "Be brief.\nIs it 5?"


def test_an_excerpt_is_one_line_of_the_last_turn():
    assert excerpt(CHAT) == "Is it 5?"
    assert excerpt(" a\n b ") == "a b"
    assert excerpt("x" * 121) == "x" * 120 + " ..."
    assert excerpt("abcdef", 3) == "abc ..."


@pytest.mark.parametrize(
    ("prompt", "other", "is_same"),
    [
        ("Is it 5 ?", "is it 5", True),
        ("Is it 5!", "is it 5", False),
        ("Is it 1, 2?", "is it 1,2", True),
        ("Is it 1, 2?", "is it 12", False),
        ("?", "!", False),
        ("Is it 5?", CHAT, False),
        (CHAT, chat(system="Be brief.", user="is it 5"), True),
        (CHAT, chat(user="Is it 5?"), False),
        (CHAT, chat(system="Be brief.", tool="Is it 5?"), False),
    ],
)
def test_prompts_that_ask_the_same_have_one_key(prompt, other, is_same):
    assert (prompt_key(prompt) == prompt_key(other)) is is_same


def test_a_prompt_without_text_has_no_key():
    assert prompt_key(" \n") == ""
    assert prompt_key(chat(user=" ")) == ""
