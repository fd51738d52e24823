"""Landlock of a kernel of any version, which notes what it is asked instead of confining."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Callable
from typing import Any


class Landlock:
    """In place of `runtimes.process.confine.libc`."""

    def __init__(self, abi: int, *, refusing: str = "") -> None:
        """``abi`` 0: the kernel has none.

        ``refusing``: "privileges", "rules", "capabilities", "reading" them, "mounts", "slave",
        "proc", or an entry of `mounted`.
        """
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
        self.mounted: list[str] = []
        """What else was done to mounts: copies, their attachment, attributes of a tree."""
        self.copies: dict[int, str] = {}
        """Descriptor → path, of what is not attached."""
        self.capabilities = [0xFFFFFFFF] * 6
        """Effective, permitted and inheritable ones up to 31, then those from 32 on."""

    def unshare(self, flags: int) -> int:
        assert flags == 0x20000
        self.order.append("own mounts")
        return self._refused(errno.EPERM) if self.refusing == "mounts" else 0

    def mount(self, source: bytes | None, target: bytes, *given: Any) -> int:
        assert self.order == ["own mounts"], "they would be the machine's"
        kind, flags, data = given
        assert data is None
        if (source, target) == (b"none", b"/"):
            assert (kind, flags) == (None, 1 << 14 | 1 << 19)
            return self._mounts("slave")
        if kind is not None:
            assert (source, target, kind, flags) == (b"proc", b"/proc", b"proc", 0b1110)
            return self._mounts("proc")
        assert (source, flags) == (target, 1 << 12)
        self.mounted.append(os.fsdecode(target))
        return 0

    def capget(self, header: Any, sets: Any) -> int:
        assert list(header) == [0x20080522, 0]
        sets[:] = self.capabilities
        return self._refused(errno.EINVAL) if self.refusing == "reading" else 0

    def capset(self, header: Any, sets: Any) -> int:
        assert list(header) == [0x20080522, 0]
        if self.refusing == "capabilities":
            return self._refused(errno.EPERM)
        self.capabilities = list(sets)
        self.order.append("few capabilities")
        return 0

    def syscall(self, number: int, *given: Any) -> int:
        if number == 444 and given[0] is None:
            assert (given[1].value, given[2]) == (0, 1)
            return self.abi or self._refused(errno.EOPNOTSUPP)
        known: dict[int, Callable[..., int]] = {
            428: self._copy,
            429: self._attach,
            442: self._attributes,
            444: self._create,
            445: self._add,
            446: self._restrict,
        }
        return known[number](*given)

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

    def _copy(self, place: int, path: bytes, flags: int) -> int:
        assert self.order == ["own mounts"]
        assert (path, flags) == (b"", 0x1001 | 0x8000 | os.O_CLOEXEC)
        name = os.readlink(f"/proc/self/fd/{place}")
        if self._mounts(f"copy {name}"):
            return -1
        self.copies[copy := os.dup(place)] = name
        return copy

    def _attach(self, copy: int, source: bytes, place: int, path: bytes, flags: int) -> int:
        assert (source, path, flags) == (b"", b"", 0x44)
        name = os.readlink(f"/proc/self/fd/{place}")
        assert self.copies.pop(copy) == name
        return self._mounts(name)

    def _attributes(self, at: int, path: bytes, flags: int, given: Any, size: Any) -> int:
        assert self.order == ["own mounts"], "they would be the machine's"
        assert (at, flags, size.value) == (-100, 0x8000, 32)
        attributes, *others = given
        assert others == [0, 0, 0]
        place = os.fsdecode(path)
        if place.startswith("/proc/"):
            assert attributes == 1
            self.mounted.remove(place)
            self.read_only.add(place)
            return 0
        return self._mounts(f"{place} +{attributes}")

    def _mounts(self, what: str) -> int:
        if self.refusing == what:
            return self._refused(errno.EPERM)
        self.mounted.append(what)
        return 0

    def _refused(self, code: int) -> int:
        ctypes.set_errno(code)
        return -1
