"""One service per state directory: only the holder of its lock acts on the runtimes.

The directory itself is locked, because a lock on a file in it is bypassed by removing the file. The
file is locked as well: it tells the pid, and NFS cannot lock directories.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from modelium import private
from modelium.errors import DeadlineExceeded, InputError

logger = logging.getLogger(__name__)

FILE = "service.pid"
CLAIM = ".modelium.lock"
MANAGED = frozenset({"orchestration.model_repository", "orchestration.incoming_directory"})
"""Fields of folders that one service manages, whatever its state directory is."""

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
    with ExitStack() as stack:
        try:
            stack.enter_context(_locked(state))
            file = stack.enter_context(open(state / FILE, "a+", opener=private.opener))
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


@contextmanager
def claim(folder: Path, *, field: str) -> Iterator[None]:
    """Be the one service that manages ``folder`` while the body runs.

    Raises:
        InputError: another service manages it.
    """
    with ExitStack() as stack:
        file = stack.enter_context((folder / CLAIM).open("a+"))
        try:
            stack.enter_context(_locked(folder))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise InputError(
                f"{field}: another Modelium service ({file.read().strip()}) manages {folder}; "
                f"stop it, or set {field} to a folder of its own"
            ) from None
        except OSError as exc:  # such as on a network mount without locks
            logger.warning("%s cannot be locked against a second service: %s", folder, exc)
        else:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        yield


@contextmanager
def _locked(folder: Path, how: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Lock the directory itself, where its file system can.

    Raises:
        BlockingIOError: another process has locked it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with _where_possible():
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _where_possible() -> Iterator[None]:
    try:
        yield
    except BlockingIOError:
        raise
    except OSError as exc:
        logger.debug("a directory cannot be locked: %s", exc)


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
        with _locked(state, fcntl.LOCK_SH), (state / FILE).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except PermissionError as exc:
        raise InputError(f"{state} belongs to another user; run the command as that user") from exc
    except BlockingIOError:
        return True
    return False


def _pid(state: Path) -> int | None:
    """Return the last holder of the lock; None before it has written its pid."""
    try:
        text = (state / FILE).read_text().strip()
    except FileNotFoundError:  # removed under the service: the kernel knows who holds it
        return _locker(state)
    return int(text) if text.isdecimal() else None


def _locker(folder: Path) -> int | None:
    """Return the process that has locked the directory, as /proc/locks tells; None if unknown."""
    inode = folder.stat().st_ino
    try:
        rows = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    for row in rows:
        fields = row.split()  # number: FLOCK ADVISORY WRITE pid device:inode start end
        if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode):
            return int(fields[4]) if int(fields[4]) > 0 else None
    return None
