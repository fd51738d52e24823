"""One service per state directory: only the holder of its lock acts on the runtimes."""

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
"""A stopping service waits up to 30 s each for requests, stages and Prefect."""


@contextmanager
def hold(state: Path) -> Iterator[None]:
    """Hold the lock of ``state`` while the body runs; the kernel releases it with the process.

    Raises:
        InputError: another process holds it.
    """
    state.mkdir(parents=True, exist_ok=True)
    with (state / FILE).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"Modelium is already running on {state} (process {_pid(state)}); "
                "stop it with `modelium down`"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def stop(state: Path, *, within_s: float = STOP_S) -> bool:
    """Stop the service on ``state`` and wait for it; False where none runs. Blocks.

    Raises:
        DeadlineExceeded: it still runs after ``within_s``.
        InputError: it belongs to another user.
    """
    deadline = time.monotonic() + within_s
    signalled = None
    while is_held(state):
        # Only a live process holds the lock, so this pid has not been reused.
        pid = _pid(state)
        if pid is not None and pid != signalled:
            _terminate(pid)
            signalled = pid
        if time.monotonic() > deadline:
            raise DeadlineExceeded(
                f"process {pid} did not stop within {within_s:.0f} s; kill it with `kill -9 {pid}`"
            )
        time.sleep(POLL_S)
    return signalled is not None


def _terminate(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return  # it has just ended
    except PermissionError as exc:
        raise InputError(
            f"process {pid} belongs to another user; run `modelium down` as that user"
        ) from exc


def is_held(state: Path) -> bool:
    """Whether a service runs on ``state``."""
    try:
        with (state / FILE).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _pid(state: Path) -> int | None:
    """Return the last holder of the lock; None before it has written its pid."""
    text = (state / FILE).read_text().strip()
    return int(text) if text.isdecimal() else None
