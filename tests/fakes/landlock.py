"""Landlock of a kernel of any version, which notes what it is asked instead of confining."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from typing import Any


class Landlock:
    """In place of `runtimes.process.confine.libc`."""

    def __init__(self, abi: int, *, refusing: str = "") -> None:
        """``abi`` 0: the kernel has none. ``refusing``: "privileges", "rules" or "mounts"."""
        self.abi = abi
        self.refusing = refusing
        self.handled: tuple[int, int, int, int] | None = None
        """Files, network, scopes and size of the ruleset."""
        self.allowed: dict[str, int] = {}
        """Path → rights."""
        self.dropped: list[int] = []
        """Capabilities."""
        self.order: list[str] = []
        self.descriptor = -1
        self.read_only: set[str] = set()
        """Folders that were mounted so."""

    def unshare(self, flags: int) -> int:
        assert flags == 0x20000
        self.order.append("own mounts")
        return self._refused(errno.EPERM) if self.refusing == "mounts" else 0

    def mount(self, source: bytes | None, target: bytes, *given: Any) -> int:
        assert self.order == ["own mounts"], "they would be the machine's"
        kind, flags, data = given
        assert (kind, data) == (None, None)
        if (source, target) == (b"none", b"/"):
            assert flags == 1 << 14 | 1 << 19
        elif source is None:
            assert flags & ~0b1110 == 1 << 12 | 1 << 5 | 1
            self.read_only.add(os.fsdecode(target))
        else:
            assert (source, flags) == (target, 1 << 12)
        return 0

    def syscall(self, number: int, *given: Any) -> int:
        if number == 444 and given[0] is None:
            assert (given[1].value, given[2]) == (0, 1)
            return self.abi or self._refused(errno.EOPNOTSUPP)
        return {444: self._create, 445: self._add, 446: self._restrict}[number](*given)

    def prctl(self, option: int, *given: int) -> int:
        if option == 24:
            self.dropped.append(given[0])
            assert given[1:] == (0, 0, 0)
            return self._refused(errno.EPERM)
        assert (option, given) == (38, (1, 0, 0, 0))
        self.order.append("no new privileges")
        return self._refused(errno.EINVAL) if self.refusing == "privileges" else 0

    def _create(self, ruleset: Any, size: Any, flags: int) -> int:
        if not self.abi:
            return self._refused(errno.EOPNOTSUPP)
        found = ruleset._obj
        self.handled = (found.files, found.network, found.scopes, size.value)
        assert (ctypes.sizeof(found), flags) == (24, 0)
        self.descriptor = os.open(os.devnull, os.O_RDONLY)
        return self.descriptor

    def _add(self, ruleset: int, kind: int, rule: Any, flags: int) -> int:
        found = rule._obj
        assert (ruleset, kind, flags) == (self.descriptor, 1, 0)
        assert ctypes.sizeof(found) == 12
        assert fcntl.fcntl(found.parent, fcntl.F_GETFL) & os.O_PATH, "opening may have effects"
        if self.refusing == "rules":
            return self._refused(errno.EINVAL)
        self.allowed[os.readlink(f"/proc/self/fd/{found.parent}")] = found.allowed
        return 0

    def _restrict(self, ruleset: int, flags: int) -> int:
        assert (ruleset, flags) == (self.descriptor, 0)
        self.order.append("restricted")
        return 0

    def _refused(self, code: int) -> int:
        ctypes.set_errno(code)
        return -1
