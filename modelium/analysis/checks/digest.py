"""The content digest of a folder, streamed."""

from __future__ import annotations

import hashlib
from pathlib import Path

from modelium.analysis.readers.folder import Folder
from modelium.errors import DropRejected

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
