"""Memory of this machine, and the limits of the cgroups around this process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class HostMemory:
    """Main memory in bytes."""

    total_bytes: int
    available_bytes: int
    """What can be allocated without swapping."""


def read(proc: Path) -> HostMemory:
    """Return the memory of the machine."""
    rows = (line.split() for line in (proc / "meminfo").read_text().splitlines())
    memory = {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if len(row) >= 2}
    return HostMemory(total_bytes=memory["MemTotal"], available_bytes=memory["MemAvailable"])


def within_cgroups(proc: Path, cgroups: Path) -> HostMemory:
    """Return the memory that this process may take part of."""
    memory = read(proc)
    total, available = memory.total_bytes, memory.available_bytes
    for limit, used in _cgroup_limits(proc, cgroups):
        total = min(total, limit)
        available = min(available, max(0, limit - used))
    return HostMemory(total_bytes=total, available_bytes=available)


def _cgroup_limits(proc: Path, cgroups: Path) -> list[tuple[int, int]]:
    """Return (limit, bytes in use without reclaimable cache) of each cgroup of this process."""
    found = []
    for line in (proc / "self" / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            folder, names = cgroups / path.lstrip("/"), ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            folder = cgroups / "memory" / path.lstrip("/")
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        for group in (folder, *folder.parents):
            if not group.is_relative_to(cgroups):
                break
            usage = _cgroup_usage(group, *names)
            if usage:
                found.append(usage)
    return found


def _cgroup_usage(group: Path, limit_file: str, usage_file: str) -> tuple[int, int] | None:
    try:
        limit = int((group / limit_file).read_text())
        used = int((group / usage_file).read_text())
        statistics = (group / "memory.stat").read_text()
    except (OSError, ValueError):  # no such group here, or its limit is the word "max"
        return None
    cache = [
        int(line.split()[1]) for line in statistics.splitlines() if line.startswith("inactive_file")
    ]
    return limit, max(0, used - sum(cache))
