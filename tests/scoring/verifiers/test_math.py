import threading

import pytest

from ilp_mlflow.scoring.verifiers.math import math

STEPS = "There are 3 * 4 = <<3*4=12>>12 apples.\n#### 12"


@pytest.mark.parametrize(
    ("said", "value"),
    [
        (STEPS, 1),
        ("She has 12.\n#### 12", 1),
        ("#### 12.0", 1),
        ("#### 12 apples", 1),
        ("#### $12", 1),
        ("#### -12", 0),
        (f"{STEPS}\n\nQuestion: what is 3 + 4?\n#### 7", 1),
        ("so the answer is 12", 1),
        ("\\boxed{12}", 1),
        ("There are 12 apples.\n#### 13", 0),
        ("<think>#### 12</think>13", 0),
        ("<think>it is 12", 0),
        ("no idea", 0),
        ("", 0),
    ],
)
def test_results_are_compared_by_value(said, value):
    assert math([said], [STEPS]) == [value]


def test_fractions_and_thousands_are_numbers():
    assert math(["\\boxed{\\frac{1}{2}}", "#### 1,000"], ["#### 0.5", "#### 1000"]) == [1, 1]


def test_a_row_without_a_result_cannot_be_judged():
    assert math(["12"], ["a haiku about frogs"]) == [None]


def test_it_works_in_other_threads():
    found = []
    thread = threading.Thread(target=lambda: found.extend(math([STEPS], [STEPS])))
    thread.start()
    thread.join()
    assert found == [1]
