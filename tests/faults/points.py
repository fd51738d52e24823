"""The numbered points of a run, and the fault at one of them."""

from __future__ import annotations

import asyncio
import errno
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from modelium.errors import Unavailable

Edge = Literal["commit", "file", "driver"]

stage_task: ContextVar[asyncio.Task[object] | None] = ContextVar("stage_task", default=None)
"""The task of the stage that is at a point."""


class Crash(BaseException):
    """The process ends here: nothing handles it, and nothing comes after it."""


class Fault(StrEnum):
    """What happens at a point."""

    NONE = "none"
    CRASH = "crash"
    LOCKED = "locked"
    """The store is locked by somebody else."""
    FULL = "full"
    """The disk has no space left."""
    HANDLES = "handles"
    """The process has no file descriptor left."""
    UNAVAILABLE = "unavailable"
    """The runtime does not answer."""
    FOREIGN = "foreign"
    """The driver's client raises an error of its own."""
    CANCELLED = "cancelled"
    """Somebody cancels the stage."""


EDGES: dict[Fault, frozenset[Edge]] = {
    Fault.NONE: frozenset(),
    Fault.CRASH: frozenset({"commit", "file", "driver"}),
    Fault.LOCKED: frozenset({"commit"}),
    Fault.FULL: frozenset({"commit", "file"}),
    Fault.HANDLES: frozenset({"file"}),
    Fault.UNAVAILABLE: frozenset({"driver"}),
    Fault.FOREIGN: frozenset({"driver"}),
    Fault.CANCELLED: frozenset({"commit", "file", "driver"}),
}
"""Where each fault can happen."""

LASTS_S = 15.0
"""How long an error lasts: longer than the retries of a step."""


def error(fault: Fault, edge: Edge) -> Exception:
    """Return what the edge raises."""
    match fault, edge:
        case Fault.LOCKED, _:
            return _sqlite("database is locked", sqlite3.SQLITE_BUSY)
        case Fault.FULL, "commit":
            return _sqlite("database or disk is full", sqlite3.SQLITE_FULL)
        case Fault.FULL, _:
            return OSError(errno.ENOSPC, "No space left on device")
        case Fault.HANDLES, _:
            return OSError(errno.EMFILE, "Too many open files")
        case Fault.UNAVAILABLE, _:
            return Unavailable("the runtime does not answer")
        case _:
            return KeyError("a field that the server left out")


def _sqlite(message: str, code: int) -> Exception:
    found = sqlite3.OperationalError(message)
    found.sqlite_errorcode = code
    return found


@dataclass(frozen=True, slots=True)
class Point:
    """One place that a run came by."""

    edge: Edge
    name: str
    """What it is, with a number from its second time on."""


class Points:
    """Numbers the points of a run while `armed`, and has a fault happen at one."""

    def __init__(self) -> None:
        """Start disarmed."""
        self.armed = False
        self.dead = False
        """Set by a crash: no edge can be reached any more."""
        self.seen: list[Point] = []
        self.fired = False
        self._count: Counter[str] = Counter()
        self.fault: Fault | None = None
        self._number = 0
        self._until = 0.0
        self.on_crash: Callable[[], None] = lambda: None

    def plan(self, fault: Fault, number: int) -> None:
        """Have ``fault`` happen at the point ``number``."""
        self.fault, self._number = fault, number

    def at(self, edge: Edge, name: str) -> None:
        """Come by a point; raises what happens there."""
        if self.dead:
            raise Crash(name)
        if not self.armed:
            return
        number = len(self.seen)
        self._count[name] += 1
        suffix = f" #{self._count[name]}" if self._count[name] > 1 else ""
        self.seen.append(Point(edge, f"{name}{suffix}"))
        fault = self.fault
        if fault is None:
            return
        if number == self._number:
            self.fired = True
            self._until = asyncio.get_running_loop().time() + LASTS_S
            self._once(fault, name)
        if self._lasts(fault, edge):
            raise error(fault, edge)

    def _lasts(self, fault: Fault, edge: Edge) -> bool:
        once = fault in (Fault.CRASH, Fault.CANCELLED)
        if not self.fired or once or edge not in EDGES[fault]:
            return False
        return asyncio.get_running_loop().time() < self._until

    def _once(self, fault: Fault, name: str) -> None:
        if fault is Fault.CRASH:
            self.dead = True
            self.on_crash()
            raise Crash(name)
        task = stage_task.get()
        if fault is Fault.CANCELLED and task is not None:
            asyncio.get_running_loop().call_soon(task.cancel)
