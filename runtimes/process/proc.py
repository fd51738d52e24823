"""Linux's table of processes in /proc: who lives, whose child, which port, how much memory.

Everything here only reads, and takes "it vanished while I looked" for an answer.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
LISTENING = "0A"
"""State of a listening socket in /proc/net/tcp."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessEntry:
    """One line of the table."""

    pid: int
    parent: int
    group: int
    session: int
    state: str
    """One letter of proc(5): R, S, D (uninterruptible), Z (zombie) …"""
    started: int
    """Clock ticks from boot to its start: with the pid, its identity until the next boot."""
    cpu_s: float

    @property
    def lives(self) -> bool:
        """Zombies hold nothing but their number."""
        return self.state not in "ZX"


def boot_id() -> str:
    """What tells this boot from all others."""
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def entry(pid: int) -> ProcessEntry | None:
    """The process ``pid``, zombie or not; None where there is none."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The command's name stands in brackets and may hold anything, brackets too.
    fields = text[text.rindex(")") + 2 :].split()
    return ProcessEntry(
        pid=pid,
        state=fields[0],
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        cpu_s=(int(fields[11]) + int(fields[12])) / TICKS_PER_S,
        started=int(fields[19]),
    )


def snapshot() -> dict[int, ProcessEntry]:
    """All processes by pid."""
    found = (entry(int(name)) for name in os.listdir(PROC) if name.isdecimal())
    return {process.pid: process for process in found if process}


def descendants(table: Mapping[int, ProcessEntry], roots: Iterable[int]) -> set[int]:
    """``roots`` and their children's children, as far as parents still live."""
    children: dict[int, list[int]] = {}
    for process in table.values():
        children.setdefault(process.parent, []).append(process.pid)
    found: set[int] = set()
    todo = list(roots)
    while todo:
        pid = todo.pop()
        if pid in table and pid not in found:
            found.add(pid)
            todo += children.get(pid, ())
    return found


def carries(pid: int, variable: str, value: str) -> bool:
    """Whether the environment that ``pid`` was started with sets ``variable`` to ``value``."""
    try:
        environment = (PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return False
    return f"{variable}={value}".encode() in environment.split(b"\0")


def words(pid: int) -> bytes:
    """Read the command line of ``pid``, its words ended by zero bytes."""
    try:
        return (PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return b""


def read_bytes(pids: Iterable[int]) -> int:
    """Bytes that ``pids`` have read so far, from files, sockets or the page cache."""
    return sum(_field(PROC / str(pid) / "io", "rchar") for pid in pids)


def resident_bytes(pids: Iterable[int]) -> int:
    """Memory of ``pids``: proportional, so that what they share counts once."""
    total = 0
    for pid in pids:
        total += _field(PROC / str(pid) / "smaps_rollup", "Pss") * 1024
    return total


def listens(port: int, pids: Iterable[int]) -> bool:
    """Whether one of ``pids`` holds a listening TCP socket on ``port``."""
    sockets = _listening_sockets(port)
    return bool(sockets) and any(_holds(pid, sockets) for pid in pids)


def _listening_sockets(port: int) -> set[str]:
    found = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = (PROC / "net" / table).read_text().splitlines()[1:]
        except OSError:  # a kernel without IPv6
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                found.add(f"socket:[{fields[9]}]")
    return found


def _holds(pid: int, sockets: set[str]) -> bool:
    folder = PROC / str(pid) / "fd"
    try:
        names = os.listdir(folder)
    except OSError:
        return False
    for name in names:
        try:
            if os.readlink(folder / name) in sockets:
                return True
        except OSError:
            continue
    return False


def _field(path: Path, name: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    for line in lines:
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0])
    return 0
