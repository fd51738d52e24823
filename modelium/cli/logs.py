"""Where log lines of `modelium up` go: all into a file, few onto the console."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path

from modelium import private
from modelium.cli.visible import visible
from modelium.config.folders import make
from modelium.errors import InputError

FILE = "modelium.log"
"""In the state directory."""

LIMIT_BYTES = 10 * 1024**2
KEPT = 5
"""Earlier files that are kept, ``modelium.log.1`` being the newest."""

OURS = ("modelium", "agents", "flows", "runtimes")
"""Packages whose warnings people should see."""

GUARDIANS = ("asyncio", "uvicorn")
"""Libraries whose errors are bugs of ours."""

CLIENTS = ("httpx", "httpx2")
"""They log each of our own requests, which the gateway's metrics count."""

ENVIRONMENT = {
    # Run logs are in the Prefect UI and in the file.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    # gRPC writes to the process's stderr, past Python's logging.
    "GRPC_VERBOSITY": "NONE",
}
"""Set before the libraries are imported, unless the user has set them."""


def quieten() -> None:
    """Have libraries that read it at import keep off the console."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def configure(state: Path, *, level: str) -> Path:
    """Send log lines to the file in ``state`` and, from ``level`` on, to stderr; return the file.

    Call `take_over` when further libraries were imported that configure logging.

    Raises:
        InputError: the file cannot be written.
    """
    file = state / FILE
    make("orchestration.state_directory", state)
    try:
        whole = _LogFile(
            file, maxBytes=LIMIT_BYTES, backupCount=KEPT, encoding="utf-8", errors="replace"
        )
    except OSError as exc:
        raise InputError(
            f"cannot write the log {file}: {exc.strerror}; set orchestration.state_directory to a "
            "directory that this user may write"
        ) from exc
    whole.setFormatter(_Visible("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    console = logging.StreamHandler(sys.stderr)
    console.setFormatter(_Short("%(asctime)s  %(message)s", datefmt="%H:%M:%S"))
    if level == "warning":
        console.addFilter(is_for_people)
    else:
        console.setLevel(level.upper())
    least = logging.DEBUG if level == "debug" else logging.INFO
    logging.basicConfig(level=least, force=True, handlers=[whole, console])
    for client in CLIENTS:
        logging.getLogger(client).setLevel(logging.WARNING)
    take_over()
    return file


def is_for_people(record: logging.LogRecord) -> bool:
    """Whether the console shows ``record`` by default."""
    package = record.name.partition(".")[0]
    if package in OURS:
        return record.levelno >= logging.WARNING
    return package in GUARDIANS and record.levelno >= logging.ERROR


def take_over() -> None:
    """Have loggers that libraries gave a console of their own use ours."""
    for name in list(logging.root.manager.loggerDict):
        logger = logging.getLogger(name)
        consoles = [h for h in logger.handlers if _writes_to_console(h)]
        for handler in consoles:
            logger.removeHandler(handler)
        if consoles:
            logger.propagate = True


def _writes_to_console(handler: logging.Handler) -> bool:
    stream = getattr(handler, "stream", None) or getattr(
        getattr(handler, "console", None), "file", None
    )
    return stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)


class _LogFile(RotatingFileHandler):
    """A file that loses lines while its disk is full or away, says so once, and goes on after."""

    _failed = _told = False

    def _open(self) -> TextIOWrapper:
        """Open the file; the log may name what other users should not know."""
        return open(
            self.baseFilename, "a", encoding="utf-8", errors="replace", opener=private.opener
        )

    def emit(self, record: logging.LogRecord) -> None:
        """Write ``record``; raises nothing."""
        self._failed = False
        super().emit(record)
        self._told = self._told and self._failed

    def handleError(self, record: logging.LogRecord) -> None:
        """Drop what could not be written; the next line opens the file again."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        self._failed = True
        stream, self.stream = self.stream, None
        if stream is not None:
            with suppress(OSError):
                stream.close()
        if not self._told:
            self._told = True
            with suppress(OSError, ValueError, AttributeError):
                sys.stderr.write(f"warning: lines of the log are lost for now: {error}\n")


class _Visible(logging.Formatter):
    """Whole records; only the first line of one begins at the margin.

    Names of files are logged, and a name must not pass for another line, nor command a terminal.
    """

    def format(self, record: logging.LogRecord) -> str:
        return _kept_together(super().format(record))


class _Short(logging.Formatter):
    """The message and the level where that is a problem; tracebacks are in the file only."""

    def format(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        record.asctime = self.formatTime(record, self.datefmt)
        word = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        more = f" (details in {FILE})" if record.exc_info else ""
        return f"{record.asctime}  {word}{_kept_together(record.message)}{more}"


def _kept_together(text: str) -> str:
    return visible(text).replace("\n", "\n  ")
