"""Opens zip files after checking the size of their table of contents."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

MAX_DIRECTORY_BYTES = 16 * 1024**2
"""About 200,000 entries; Python's reader loads all of them into memory."""


class AbsurdDirectory(ValueError):
    """Raised for a table of contents that is larger than that of any model."""


def open_zip(path: Path | BinaryIO) -> zipfile.ZipFile:
    """Open ``path`` for reading its names; raises `AbsurdDirectory`, `zipfile.BadZipFile`."""
    if isinstance(path, Path):
        with path.open("rb") as file:
            size = _directory_bytes(file)
    else:
        size = _directory_bytes(path)
    if size is None:
        raise zipfile.BadZipFile("no end-of-directory record")
    if size > MAX_DIRECTORY_BYTES:
        raise AbsurdDirectory(
            f"the table of contents has {size} bytes; the limit is {MAX_DIRECTORY_BYTES}"
        )
    return zipfile.ZipFile(path)


def _directory_bytes(file: BinaryIO) -> int | None:
    """Return the size in the end record (APPNOTE.TXT 4.3.14 and 4.3.16); ``None``: not a zip."""
    length = file.seek(0, 2)
    file.seek(max(0, length - 65_557 - 76))
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) < at + 22:
        return None
    (size,) = struct.unpack_from("<I", tail, at + 12)
    wide = tail.rfind(b"PK\x06\x06", 0, max(0, at - 52))  # it has 56 bytes
    if wide >= 0:
        (wide_size,) = struct.unpack_from("<Q", tail, wide + 40)
        size = wide_size if size == 0xFFFFFFFF else max(size, wide_size)
    elif size == 0xFFFFFFFF:
        return length
    return int(size)
