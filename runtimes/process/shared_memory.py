"""POSIX shared memory of processes: what a killed engine leaves stays in RAM until removed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

ROOT = "/dev/shm/"  # noqa: S108 - where Linux keeps it
DELETED = " (deleted)"


def regions(pids: Iterable[int]) -> set[Path]:
    """Return the files under /dev/shm that ``pids`` have mapped."""
    # psutil reads smaps instead, for which the kernel walks all page tables of a process.
    found = set()
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            _, slash, name = line.partition(ROOT)
            if slash and not name.endswith(DELETED):
                found.add(Path(ROOT + name))
    return found


def remove_unused(candidates: set[Path]) -> None:
    """Remove those of ``candidates`` that no process has mapped any more."""
    existing = {path for path in candidates if path.exists()}
    if existing:
        in_use = regions(int(name) for name in os.listdir("/proc") if name.isdecimal())
        for path in existing - in_use:
            path.unlink(missing_ok=True)
