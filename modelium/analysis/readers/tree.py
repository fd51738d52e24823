"""Walks folders of any shape: without recursion, without links, and with a bound.

Whoever may write to the drop zone may nest folders deeper than Python's stack, and than any path
that the kernel takes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

MAX_LISTED = 100_000
"""Entries that a walk looks at: five times what a model may have."""
MAX_LEVELS = 32
"""Folders in folders that a walk enters: more than a model may have."""


def walk(root: Path) -> Iterator[os.DirEntry[str]]:
    """Yield what lies in the folder ``root``, folders before what is in them.

    It ends early, without an error, at `MAX_LISTED` entries and below `MAX_LEVELS` folders: the
    checks refuse such a drop. What cannot be listed is left out.
    """
    pending, seen = [(str(root), 1)], 0
    while pending:
        folder, level = pending.pop()
        try:
            with os.scandir(folder) as entries:
                found = []
                for entry in entries:
                    seen += 1
                    if seen > MAX_LISTED:
                        break
                    found.append(entry)
        except OSError:
            continue
        for entry in found:
            yield entry
            if level < MAX_LEVELS and is_folder(entry):
                pending.append((entry.path, level + 1))


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether ``entry`` is a folder, and no link to one."""
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False
