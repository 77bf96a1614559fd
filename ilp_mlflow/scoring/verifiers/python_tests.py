"""Check of Python code by the row's own tests, each completion in a process of its own.

This keeps honest mistakes from doing harm: an endless loop, memory without end, a large file, a
call over the network, an exit. It is no sandbox: code that means harm can read files of this user,
and can undo what is forbidden here from within its process. Run code of models that you do not
trust in a container or a machine of its own.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FENCED = re.compile(r"```([^\n`]*)\n(.*?)(?:```|\Z)", re.DOTALL)
"""A block between fences: its language, and what is in it."""
PYTHON = re.compile(r"\s*(?:python|py)\d*\b", re.IGNORECASE)
MEMORY = 2**30
"""Bytes of address space."""
FILE_SIZE = 2**20
"""Bytes of a file that is written."""
LIMITS = """\
import resource as _resource, socket as _socket
def _refuse(*args, **kwargs):
    raise OSError("no network here")
_socket.socket.connect = _socket.socket.connect_ex = _socket.create_connection = _refuse
_socket.getaddrinfo = _refuse
_resource.setrlimit(_resource.RLIMIT_CPU, ({seconds}, {seconds}))
_resource.setrlimit(_resource.RLIMIT_AS, ({memory}, {memory}))
_resource.setrlimit(_resource.RLIMIT_FSIZE, ({file_size}, {file_size}))
_resource.setrlimit(_resource.RLIMIT_CORE, (0, 0))
del _socket, _resource
with open("answer.py", encoding="utf-8") as _file:
    _code = compile(_file.read(), "answer.py", "exec")
exec(_code, {{"__name__": "__main__"}})
print("\\n" + {mark!r}, flush=True)
"""
"""Runs the code in its process: forbids, limits, and says so when it came to its end."""


def python_tests(
    completions: Sequence[str],
    tests: Sequence[str | Sequence[str] | None],
    timeout: float = 10.0,
    **columns: Any,
) -> list[float | None]:
    """1 where the code that is said passes the row's `tests`, which are code, or a list of it.

    The code is what stands between fences, or all of it; it gets `timeout` seconds. None for a row
    without tests.
    """
    values: list[float | None] = []
    for said, of_row in zip(completions, tests, strict=True):
        if not of_row:
            values.append(None)
            continue
        checks = of_row if isinstance(of_row, str) else "\n".join(of_row)
        values.append(float(_passes(_code(said), checks, timeout)))
    return values


def _code(said: str) -> str:
    """The Python of a completion: its blocks of Python, else its first block, else all of it."""
    blocks = FENCED.findall(said)
    in_python = [block for language, block in blocks if PYTHON.match(language)]
    if in_python:
        return "\n".join(in_python)
    unnamed = [block for language, block in blocks if not language.strip()]
    return unnamed[0] if unnamed else said


def _passes(code: str, tests: str, timeout: float) -> bool:
    """Whether code and tests run to their end."""
    # the mark tells an end from an exit on the way
    mark = f"passed-{os.urandom(8).hex()}"
    runner = LIMITS.format(seconds=int(timeout) + 1, memory=MEMORY, file_size=FILE_SIZE, mark=mark)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "answer.py").write_text(f"{code}\n{tests}\n", encoding="utf-8")
        Path(folder, "runner.py").write_text(runner, encoding="utf-8")
        output = Path(folder, "output.txt")
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-I", "runner.py"],
                cwd=folder,
                env={"PATH": os.defpath, "HOME": folder},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                code_of_exit = process.wait(timeout)
            except subprocess.TimeoutExpired:
                return False
            finally:
                # what it has started ends with it
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        lines = output.read_text(encoding="utf-8", errors="replace").splitlines()
    return code_of_exit == 0 and mark in lines
