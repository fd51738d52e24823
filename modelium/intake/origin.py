"""The note beside a staged drop: where it came from, so that a restart can tell what to keep."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

ORIGIN = "origin.json"
"""The note's file, in the staging folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where a staged drop came from, and where it goes when it is refused."""

    path: str = ""
    """Its place before; empty: nobody knows."""
    name: str = ""
    """Of the model, and so of the staged folder; empty: nobody knows."""
    moved: bool = True
    """False: a copy is staged, and the drop stays in its place."""
    archive: bool = False
    """Whether the staged folder was unpacked."""
    identity: str = ""
    """Of the drop at `path` while it was copied to be moved; see `is_copy_of`."""
    team: str = ""
    """Whose drop it is; empty: nobody's in particular."""
    rejected: str = ""
    """Its place among the rejected drops, where it is being moved there."""

    @classmethod
    def read(cls, own: Path) -> Origin:
        """Return the note in the staging folder ``own``; without one nothing is known."""
        try:
            found = json.loads((own / ORIGIN).read_text())
            fields = {field: found[field] for field in cls.__slots__ if field in found}
            return cls(**fields)
        except (OSError, ValueError, TypeError):
            return cls()

    def write(self, own: Path) -> None:
        """Write the note into ``own``, in one step and synced to disk."""
        fresh = own / f".{ORIGIN}"
        with fresh.open("w") as out:
            json.dump(asdict(self), out)
            out.flush()
            os.fsync(out.fileno())
        os.rename(fresh, own / ORIGIN)

    def noting(self, own: Path) -> Callable[[bool], None]:
        """Return what `modelium.intake.moving.move` calls, which keeps the note up to date."""

        def note(moved: bool) -> None:
            identity = _identity(Path(self.path))
            replace(self, moved=moved, identity=identity).write(own)

        return note

    def is_copy_of(self, path: Path) -> bool:
        """Whether what was copied is what is at ``path`` now, and no later drop of that name."""
        return bool(self.identity) and _identity(path) == self.identity


def _identity(path: Path) -> str:
    try:
        info = path.lstat()
    except OSError:
        return ""
    return f"{info.st_dev}:{info.st_ino}:{info.st_ctime_ns}"
