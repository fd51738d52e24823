"""What changes whenever a file or folder does, and when that was."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import NamedTuple

from modelium.analysis.readers.tree import walk


class Fingerprint(NamedTuple):
    """Of a file, or of a folder with all that is in it."""

    entries: int
    total_bytes: int
    modified_ns: int
    """The newest modification time. A copy may keep that of its original."""
    changed_ns: int
    """The newest change of contents, name or permissions; nothing but the clock sets it."""

    @property
    def changed_at(self) -> float:
        """Epoch seconds of the last change."""
        return self.changed_ns / 1e9


def fingerprint(path: Path) -> Fingerprint | None:
    """Return the fingerprint of what is at ``path``; ``None``: nothing is.

    A link is not followed: it could lead to a whole file system, which changes all the time. Of a
    folder beyond the bounds of `walk`, only what is within them counts.
    """
    try:
        own = path.lstat()
    except OSError:
        return None
    count, total, modified, changed = 1, own.st_size, own.st_mtime_ns, own.st_ctime_ns
    for entry in walk(path) if stat.S_ISDIR(own.st_mode) else ():
        try:
            found = entry.stat(follow_symlinks=False)
        except OSError:
            continue
        count += 1
        total += found.st_size
        modified = max(modified, found.st_mtime_ns)
        changed = max(changed, found.st_ctime_ns)
    return Fingerprint(count, total, modified, changed)
