"""Check of Python code by the row's own tests, each completion in a process of its own.

This keeps honest mistakes from doing harm: an endless loop, memory without end, a large file, a
call over the network, an exit. It is no sandbox: code that means harm can read files of this user,
and can undo what is forbidden here from within its process. Run code of models that you do not
trust in a container or a machine of its own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FENCED = re.compile(r"```(?:python|py)?\s*\n(.*?)(?:```|\Z)", re.DOTALL)
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
"""
"""Runs in front of the code, in its process."""


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
    """The code of a completion: its blocks between fences, or all of it."""
    blocks = FENCED.findall(said)
    return "\n".join(blocks) if blocks else said


def _passes(code: str, tests: str, timeout: float) -> bool:
    """Whether code and tests run to their end."""
    # the mark tells an end from an exit on the way
    mark = f"passed-{os.urandom(8).hex()}"
    limits = LIMITS.format(seconds=int(timeout) + 1, memory=MEMORY, file_size=FILE_SIZE)
    program = f"{limits}\n{code}\n{tests}\nprint({mark!r})\n"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "program.py")
        path.write_text(program, encoding="utf-8")
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", str(path)],
                cwd=folder,
                env={"PATH": os.defpath, "HOME": folder},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == 0 and done.stdout.decode(errors="replace").rstrip().endswith(mark)
