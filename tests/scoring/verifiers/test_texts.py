import pytest

from ilp_mlflow.scoring.verifiers.texts import choice, contains, exact, rouge_l


def test_exact_and_contains():
    assert exact(["42", " 42\n", "42."], ["42", "42", "42"]) == [1, 1, 0]
    assert contains(["It is Paris.", "Lyon"], ["Paris", "Paris"]) == [1, 0]


OPTIONS = ("A. New York", "B. New York City", "C. Rome")


@pytest.mark.parametrize(
    ("said", "value"),
    [
        ("C. Rome", 1),
        ("C", 1),
        ("(c)", 1),
        ("The answer is C.", 1),
        ("It is Rome, of course.", 1),
        ("A man from there says it is Rome.", 1),
        ("Not New York but Rome", 1),
        ("It is not Rome", 0),
        ("It isn't in Rome", 0),
        ("B", 0),
        ("New York City", 0),
        ("nowhere", 0),
        ("Citizens", 0),
    ],
)
def test_the_option_that_is_said_first_is_chosen(said, value):
    assert choice([said], ["C. Rome"], [OPTIONS]) == [value]


def test_the_longest_option_that_begins_there_is_said():
    assert choice(["New York City"], ["B. New York City"], [OPTIONS]) == [1]
    assert choice(["A"], ["A"], [("A", "B")]) == [1]
    assert choice(["B", "A"], ["Paris"] * 2, [("Rome", "Paris")] * 2) == [1, 0]
    assert choice(["10-5"], ["5"], [("5", "10")]) != [1]


def test_without_options_nobody_chooses():
    assert choice(["A"], ["A"], [None]) == [None]


def test_rouge_l():
    assert rouge_l(["the cat sat", "a dog"], ["the cat sat", "the cat sat"]) == [1, 0]
    (half,) = rouge_l(["the cat"], ["the cat sat down"])
    assert half == pytest.approx(2 / 3)
