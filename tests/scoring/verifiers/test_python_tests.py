import subprocess
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
        (f"```Python3\n{RIGHT}\n```", 1),
        (f"First:\n```bash\npip install x\n```\nThen\n```python\n{RIGHT}\n```\n```\n4\n```", 1),
        (f"from __future__ import annotations\nimport numpy\n{RIGHT}", 1),
        (f"{RIGHT}\nimport atexit\natexit.register(print, 'bye')", 1),
        (f"{RIGHT}\nwhile True: print('a' * 10000)", 0),
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


def test_what_the_code_starts_ends_with_it(tmp_path):
    mark = f"late-{tmp_path.name}"
    code = (
        f"import subprocess, sys\n{RIGHT}\n"
        f"subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(30)', {mark!r}])"
    )
    assert python_tests([code], [TESTS]) == [1]
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert mark not in running


def test_a_row_without_tests_cannot_be_judged():
    assert python_tests([RIGHT, RIGHT], [None, "assert double(1) == 2"]) == [None, 1]
