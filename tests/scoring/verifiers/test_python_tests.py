import time

import pytest

from ilp_mlflow.scoring.verifiers.python_tests import python_tests

TESTS = ["assert double(2) == 4", "assert double('a') == 'aa'"]
RIGHT = "def double(x):\n    return 2 * x"


@pytest.mark.parametrize(
    ("said", "value"),
    [
        (RIGHT, 1),
        (f"Here you are:\n```python\n{RIGHT}\n```\nIt doubles.", 1),
        (f"```\n{RIGHT}", 1),
        (RIGHT.replace("2", "3"), 0),
        ("def double(x) return", 0),
        ("import sys\nsys.exit(0)", 0),
        ("print('passed')\nraise SystemExit", 0),
        (f"{RIGHT}\nimport socket\nsocket.create_connection(('127.0.0.1', 9))", 0),
        (f"{RIGHT}\nx = 'a' * 2**31", 0),
        (f"{RIGHT}\nopen('big', 'w').write('a' * 2**22)", 0),
        (f"{RIGHT}\nopen('small', 'w').write('a')", 1),
        ("", 0),
    ],
)
def test_code_that_passes_the_rows_tests_is_right(said, value):
    assert python_tests([said], [TESTS]) == [value]


def test_an_endless_loop_ends():
    started = time.monotonic()
    assert python_tests([f"{RIGHT}\nwhile True: pass"], [TESTS], timeout=1) == [0]
    assert time.monotonic() - started < 20


def test_a_row_without_tests_cannot_be_judged():
    assert python_tests([RIGHT, RIGHT], [None, "assert double(1) == 2"]) == [None, 1]
