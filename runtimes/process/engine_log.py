"""The log file of one engine: the engine writes it, Modelium reads and rotates it."""

from __future__ import annotations

import os
import re
from pathlib import Path

MAX_BYTES = 16 * 1024 * 1024
"""A log larger than this is rotated: about a day of a chatty engine's lines."""
KEPT = 3
"""Older files that are kept: the last few starts can still be compared."""
TAIL_BYTES = 64 * 1024
"""How much of the end of the file `tail` reads."""
SECRET = re.compile(r"(?i)\b((?:api[-_ ]?key|token|password|secret)['\"]?\s*[:=]\s*)\S+")


class EngineLog:
    """A log whose writer outlives Modelium, so that no pipe can sit between them.

    Rotation copies the file and truncates it; the engine writes with O_APPEND and so continues at
    the start.
    """

    def __init__(self, *, path: Path) -> None:
        """Skip what the file holds already."""
        self.path = path
        self._offset = self._size()
        self._unfinished = b""

    def open(self) -> int:
        """Rotate the file of an earlier start; open a new one and return its descriptor."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._size():
            self._shift()
            self.path.replace(self._older(1))
        self._offset, self._unfinished = 0, b""
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)

    def new_lines(self) -> list[str]:
        """Return the lines completed since the last call; a carriage return also ends a line."""
        size = self._size()
        if size < self._offset:
            self._offset, self._unfinished = 0, b""
        if size == self._offset:
            return []
        with self.path.open("rb") as file:
            file.seek(self._offset)
            data = self._unfinished + file.read()
            self._offset = file.tell()
        *lines, self._unfinished = re.split(rb"[\r\n]+", data)
        return [line.decode(errors="replace") for line in lines if line.strip()]

    def tail(self, lines: int) -> list[str]:
        """Return the last ``lines`` lines, with secrets masked."""
        try:
            with self.path.open("rb") as file:
                file.seek(max(0, self._size() - TAIL_BYTES))
                text = file.read().decode(errors="replace")
        except OSError:
            return []
        return [SECRET.sub(r"\1***", line) for line in text.splitlines() if line.strip()][-lines:]

    def rotate(self) -> None:
        """Rotate the file if it is larger than `MAX_BYTES`."""
        if self._size() <= MAX_BYTES:
            return
        self._shift()
        self._older(1).write_bytes(self.path.read_bytes())
        os.truncate(self.path, 0)
        self._offset, self._unfinished = 0, b""

    def _shift(self) -> None:
        for number in range(KEPT, 1, -1):
            older = self._older(number - 1)
            if older.exists():
                older.replace(self._older(number))

    def _older(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")

    def _size(self) -> int:
        try:
            return self.path.stat().st_size
        except OSError:
            return 0
