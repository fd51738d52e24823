"""Runs pytest in forks of a process that has imported the libraries already.

``python -m tools.mutants.forks LIBRARY…`` reads lines of arguments, one JSON list each, and answers
each with pytest's exit code. Nothing of Modelium is imported before the fork: it is what changes.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

TIMEOUT_S = 300.0
"""For all tests of one call: what hangs has failed."""
LIBRARIES = (
    "alembic.command",
    "fastapi",
    "httpx",
    "hypothesis.stateful",
    "jsonschema",
    "langchain_core.tools",
    "numpy",
    "openai",
    "prometheus_client",
    "psutil",
    "pydantic",
    "pytest_asyncio",
    "safetensors",
    "sqlalchemy.ext.asyncio",
    "typer.testing",
    "uvicorn",
    "watchdog.observers",
    "yaml",
)
POLL_S = 0.02
HUNG = -1


class Forks:
    """The process that forks, seen from outside."""

    def __init__(self, place: Path, *, libraries: Sequence[str] = LIBRARIES) -> None:
        """Start it in ``place``, whose packages its forks import; ``libraries``: imported once."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tools.mutants.forks", *libraries],
            cwd=place,
            env={**os.environ, "PYTHONPATH": str(place)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def run(self, arguments: Sequence[str]) -> int:
        """Run pytest with ``arguments``; return its exit code, `HUNG` after `TIMEOUT_S`."""
        if not self._process.stdin or not self._process.stdout:
            raise AssertionError
        self._process.stdin.write(f"{json.dumps(arguments)}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def main() -> None:
    """Answer each line of standard input."""
    for name in sys.argv[1:]:
        with contextlib.suppress(ImportError):  # only slower without it
            importlib.import_module(name)
    gc.freeze()
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            _test(json.loads(line))
        print(_wait(pid), flush=True)


def _test(arguments: list[str]) -> NoReturn:
    os.setsid()  # a mutant may leave processes behind
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nothing, descriptor)
    code = 1
    try:
        import pytest

        code = int(pytest.main(arguments))
    finally:
        os._exit(code)


def _wait(pid: int) -> int:
    """Return the exit code of ``pid``, and end what it has left in its session."""
    deadline = time.monotonic() + TIMEOUT_S
    code = HUNG
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            break
        time.sleep(POLL_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    if code == HUNG:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
    return code


if __name__ == "__main__":
    main()
