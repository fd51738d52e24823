"""One service per state directory: who holds its lock is the one that touches the runtimes."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modelium.errors import DeadlineExceeded, InputError

FILE = "service.pid"
POLL_S = 0.2
STOP_S = 150.0
"""A service that stops lets requests, stages and Prefect finish, each for half a minute."""


@contextmanager
def sole(state: Path) -> Iterator[None]:
    """Hold the lock of ``state`` as long as the body runs; it ends with the process in any case.

    Raises:
        InputError: another process holds it.
    """
    state.mkdir(parents=True, exist_ok=True)
    with (state / FILE).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"a Modelium runs on {state} already (process {_pid(state)}): "
                "`modelium down` ends it"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def stop(state: Path, *, within_s: float = STOP_S) -> bool:
    """Have the service on ``state`` stop and wait for it; False where none runs. Blocking.

    Raises:
        DeadlineExceeded: it is still there after ``within_s``.
        InputError: it is another user's.
    """
    deadline = time.monotonic() + within_s
    asked = None
    while _held(state):
        # Only a live process holds the lock, so that the number is nobody else's.
        pid = _pid(state)
        if pid is not None and pid != asked:
            _ask(pid)
            asked = pid
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"process {pid} did not stop within {within_s:.0f} s: kill it")
        time.sleep(POLL_S)
    return asked is not None


def _ask(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return  # it ended by itself just now
    except PermissionError as exc:
        raise InputError(f"process {pid} is another user's: end it as that user") from exc


def _held(state: Path) -> bool:
    try:
        with (state / FILE).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _pid(state: Path) -> int | None:
    """The process that took the lock last; None in the moment before it has said so."""
    text = (state / FILE).read_text().strip()
    return int(text) if text.isdecimal() else None
