"""The log file of one engine: the engine writes it, Modelium reads and rotates it."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from pathlib import Path

logger = logging.getLogger(__name__)

MAX_BYTES = 16 * 1024 * 1024
"""A log larger than this is rotated: about a day of a chatty engine's lines."""
KEPT = 3
"""Older files that are kept: the last few starts can still be compared."""
TAIL_BYTES = 64 * 1024
"""How much of the end of the file `tail` reads."""
NEW_BYTES = 256 * 1024
"""How much `new_lines` reads at once: it runs on the event loop, and the last lines count."""
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
        self._rotating = self._rotated = False

    def open(self) -> int:
        """Rotate the file of an earlier start; open a new one and return its descriptor."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._size() > MAX_BYTES:
            self._rotate()
        elif self._size():
            self._shift()
            self.path.replace(self._older(1))
        self._offset, self._unfinished = 0, b""
        self._rotated = False
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)

    def new_lines(self) -> list[str]:
        """Return the lines completed since the last call; a carriage return also ends a line.

        Of more than `NEW_BYTES`, only the last ones.
        """
        size = self._size()
        if size < self._offset:
            self._offset, self._unfinished = 0, b""
        if size == self._offset:
            return []
        if size - self._offset > NEW_BYTES:
            self._offset, self._unfinished = size - NEW_BYTES, b""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            data = self._unfinished + file.read(size - self._offset)
            self._offset = file.tell()
        *lines, self._unfinished = re.split(rb"[\r\n]+", data)
        return [line.decode(errors="replace") for line in lines if line.strip()]

    def tail(self, lines: int) -> list[str]:
        """Return the last ``lines`` lines, with secrets masked."""
        text = self._end_of(self.path)
        if self._rotated and len(text) < TAIL_BYTES:  # it was cut in the middle of this start
            text = self._end_of(self._older(1)) + text
        found = text.decode(errors="replace").splitlines()
        return [SECRET.sub(r"\1***", line) for line in found if line.strip()][-lines:]

    async def rotate(self) -> None:
        """Rotate the file if it is larger than `MAX_BYTES`, off the event loop."""
        if self._size() <= MAX_BYTES or self._rotating:
            return
        self._rotating = True
        try:
            await asyncio.to_thread(self._rotate)
        finally:
            self._rotating = False
        self._offset, self._unfinished, self._rotated = 0, b"", True

    def _rotate(self) -> None:
        """Keep the last `MAX_BYTES`: a flood may have written much more since the last look.

        On a full disk nothing is kept: only the truncation gives space back.
        """
        self._shift()
        try:
            with self.path.open("rb") as file, self._older(1).open("wb") as kept:
                file.seek(max(0, self._size() - MAX_BYTES))
                # Not to the end, which a flood may move faster than we copy.
                kept.write(file.read(MAX_BYTES))
        except OSError as exc:
            logger.warning("%s is cut without a copy: %s", self.path, exc)
            self._older(1).unlink(missing_ok=True)
        os.truncate(self.path, 0)

    def _end_of(self, path: Path) -> bytes:
        try:
            with path.open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - TAIL_BYTES))
                return file.read(TAIL_BYTES)
        except OSError:
            return b""

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
