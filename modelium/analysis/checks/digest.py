"""The content digest of a folder, streamed, and the seal that tells whether to read it again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from modelium.analysis.readers.folder import Folder
from modelium.errors import DropRejected, is_passing

_CHUNK = 1024**2


def digest(path: Path) -> str:
    """``sha256:…`` over sorted relative names, sizes and contents; constant memory.

    Raises `DropRejected` where the folder is not safe to read or a file changes length meanwhile.
    """
    folder = Folder(path)
    total = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    for entry in folder.files:
        name = entry.name.encode()
        total.update(len(name).to_bytes(4, "big") + name + entry.size.to_bytes(8, "big"))
        done = 0
        try:
            with folder.path(entry.name).open("rb", buffering=0) as file:
                while count := file.readinto(buffer):
                    total.update(buffer[:count])
                    done += count
        except OSError as exc:
            if is_passing(exc):
                raise
            raise DropRejected(
                f"{entry.name!r} cannot be read: {exc.__class__.__name__}.", reason="unreadable"
            ) from exc
        if done != entry.size:
            raise DropRejected(
                f"{entry.name!r} changed while it was read. Drop it again when the copy is "
                "complete.",
                reason="changed",
            )
    return f"sha256:{total.hexdigest()}"


def seal(path: Path) -> str:
    """``sha256:…`` over what the file system knows of each file of a folder; reads no contents.

    While it stays the same, no file was written to, replaced, added or removed: nobody but the
    administrator can set the time of a file's last change. Take it before the digest.

    Raises `DropRejected` where the folder is not safe to read.
    """
    folder = Folder(path)
    total = hashlib.sha256()
    for entry in folder.files:
        try:
            info = os.lstat(folder.path(entry.name))
        except OSError as exc:
            if is_passing(exc):
                raise
            raise DropRejected(f"{entry.name!r} is gone.", reason="changed") from exc
        known = (info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
        total.update(f"{entry.name}\0{known}\n".encode())
    return f"sha256:{total.hexdigest()}"
