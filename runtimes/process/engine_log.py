"""The log file of one engine: written by the engine itself, read and rotated from here."""

from __future__ import annotations

import os
import re
from pathlib import Path

MAX_BYTES = 16 * 1024 * 1024
"""A log larger than this is rotated: about a day of a chatty engine's lines."""
KEPT = 3
"""Older files beside the current one: enough to look at the start before last."""
TAIL_BYTES = 64 * 1024
"""How much of the end is read for the last words of an engine."""
SECRET = re.compile(r"(?i)\b((?:api[-_ ]?key|token|password|secret)['\"]?\s*[:=]\s*)\S+")


class EngineLog:
    """Appended to by an engine that outlives us, so there is no pipe to rotate behind.

    Rotation copies and truncates; the engine writes with O_APPEND and goes on at the start.
    """

    def __init__(self, *, path: Path) -> None:
        """Start reading at the end of what is there."""
        self.path = path
        self._offset = self._size()
        self._rest = b""

    def open(self) -> int:
        """Open a descriptor for the engine; a file of an earlier start is put aside first."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._size():
            self._shift()
            self.path.replace(self._older(1))
        self._offset, self._rest = 0, b""
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)

    def new_lines(self) -> list[str]:
        """Lines that were completed since the last call; a carriage return ends one, too."""
        size = self._size()
        if size < self._offset:
            self._offset, self._rest = 0, b""
        if size == self._offset:
            return []
        with self.path.open("rb") as file:
            file.seek(self._offset)
            data = self._rest + file.read()
            self._offset = file.tell()
        *lines, self._rest = re.split(rb"[\r\n]+", data)
        return [line.decode(errors="replace") for line in lines if line.strip()]

    def tail(self, lines: int) -> list[str]:
        """Read the last ``lines`` lines, secrets blanked out."""
        try:
            with self.path.open("rb") as file:
                file.seek(max(0, self._size() - TAIL_BYTES))
                text = file.read().decode(errors="replace")
        except OSError:
            return []
        return [SECRET.sub(r"\1***", line) for line in text.splitlines() if line.strip()][-lines:]

    def rotate(self) -> None:
        """Put the file aside if it has grown too large."""
        if self._size() <= MAX_BYTES:
            return
        self._shift()
        self._older(1).write_bytes(self.path.read_bytes())
        os.truncate(self.path, 0)
        self._offset, self._rest = 0, b""

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
