"""Linux's process table: who is alive, whose child it is, which port it holds, what it uses.

Everything here only reads. A process that ends while it is being read counts as absent.

Facts about one process come from `modelium.devices.processes`. The rest is read from ``/proc``
because psutil does not serve it: it knows no session ids, parses each environment into a
dictionary where a token is only searched for, and lists sockets per process where one pass over
the kernel's table is enough. Supervision does these for every process, several times a second.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from modelium.devices import processes

PROC = Path("/proc")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
LISTENING, ESTABLISHED = "0A", "01"
"""States of sockets in /proc/net/tcp."""
LOCAL, REMOTE = 1, 2
"""Its columns with their ends."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessEntry:
    """One row of the process table."""

    pid: int
    parent: int
    group: int
    session: int
    state: str
    """One letter of proc(5): R, S, D (uninterruptible), Z (zombie) …"""
    started: int
    """Start time in clock ticks since boot. With the pid it identifies the process until the
    next boot."""
    cpu_s: float

    @property
    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        return self.state not in "ZX"


def boot_id() -> str:
    """Return the identifier of the current boot."""
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def entry(pid: int) -> ProcessEntry | None:
    """Return the row of ``pid``, also of a zombie; None without such a process."""
    fields = processes.stat_fields(pid)
    if fields is None:
        return None
    return ProcessEntry(
        pid=pid,
        state=fields[0],
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        cpu_s=(int(fields[11]) + int(fields[12])) / TICKS_PER_S,
        started=int(fields[19]),
    )


def alive(pid: int) -> bool:
    """Whether ``pid`` exists and is not a zombie."""
    found = entry(pid)
    return found is not None and found.alive


def alive_since(pid: int) -> int | None:
    """Return the start time of ``pid`` in clock ticks since boot; None if it is not alive."""
    found = entry(pid)
    return found.started if found is not None and found.alive else None


def snapshot() -> dict[int, ProcessEntry]:
    """Return all processes by pid."""
    found = (entry(int(name)) for name in os.listdir(PROC) if name.isdecimal())
    return {process.pid: process for process in found if process}


def descendants(table: Mapping[int, ProcessEntry], roots: Iterable[int]) -> set[int]:
    """Return ``roots`` and all processes of ``table`` that descend from them.

    The chain ends at a parent that has exited: its children belong to another process then.
    """
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


def has_variable(pid: int, variable: str, value: str) -> bool:
    """Whether ``pid`` was started with the environment variable ``variable`` set to ``value``."""
    try:
        environment = (PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return False
    return f"{variable}={value}".encode() in environment.split(b"\0")


def variables(pid: int, names: Iterable[str]) -> dict[str, str]:
    """Return those of the environment variables ``names`` that ``pid`` was started with."""
    try:
        environment = (PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return {}
    pairs = (entry.decode(errors="replace").partition("=") for entry in environment.split(b"\0"))
    wanted = frozenset(names)
    return {name: value for name, separator, value in pairs if separator and name in wanted}


def users(pid: int) -> frozenset[int]:
    """Return the user ids of ``pid``: real, effective, saved; none without such a process.

    They differ where a user started a program of another user (setuid), with arguments at will.
    """
    try:
        status = (PROC / str(pid) / "status").read_text()
    except OSError:
        return frozenset()
    line = next(line for line in status.splitlines() if line.startswith("Uid:"))
    return frozenset(map(int, line.split()[1:]))


def command_line(pid: int) -> bytes:
    """Return the command line of ``pid``, each argument ended by a zero byte."""
    try:
        return (PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return b""


def cpu_s(pids: Iterable[int]) -> float:
    """Return the processor time of ``pids`` in seconds since they started."""
    return sum(found.cpu_s for pid in pids if (found := entry(pid)))


def bytes_read(pids: Iterable[int]) -> int:
    """Return the bytes that ``pids`` have read so far, from files, sockets or the page cache."""
    return sum(map(processes.bytes_read, pids))


def resident_bytes(pids: Iterable[int]) -> int:
    """Return the memory of ``pids`` in bytes; pages that they share count once."""
    return sum(map(processes.resident_bytes, pids))


def listens(port: int, pids: Iterable[int]) -> bool:
    """Whether one of ``pids`` holds a listening TCP socket on ``port``."""
    sockets = _sockets(LISTENING, LOCAL, port)
    return any(_holds(pid, sockets) for pid in pids) if sockets else False


def connected(port: int, pids: Iterable[int]) -> bool:
    """Whether one of ``pids`` holds an open TCP connection to ``port`` of another machine."""
    sockets = _sockets(ESTABLISHED, REMOTE, port)
    return any(_holds(pid, sockets) for pid in pids) if sockets else False


def listeners(port: int, pids: Iterable[int]) -> list[int]:
    """Return those of ``pids`` that hold a listening TCP socket on ``port``."""
    sockets = _sockets(LISTENING, LOCAL, port)
    return [pid for pid in pids if _holds(pid, sockets)] if sockets else []


def _sockets(state: str, end: int, port: int) -> set[str]:
    """Return TCP sockets in ``state`` with ``port`` at the ``end`` (a column of the table)."""
    found = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = (PROC / "net" / table).read_text().splitlines()[1:]
        except OSError:  # a kernel without IPv6
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == state and int(fields[end].rpartition(":")[2], 16) == port:
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
