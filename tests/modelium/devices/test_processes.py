"""What the kernel says of real processes."""

from __future__ import annotations

import os
import subprocess
import sys

from modelium.devices.processes import bytes_read, resident_bytes, start_time

GONE = 2**22 + 1
"""Above the kernel's largest pid (PID_MAX_LIMIT)."""


def test_start_time_tells_a_process_from_its_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        ours, theirs = start_time(os.getpid()), start_time(child.pid)
        assert ours is not None and theirs is not None
        assert ours < theirs
        assert start_time(child.pid) == theirs
        child.communicate()
    assert start_time(child.pid) is None


def test_start_time_survives_a_command_name_with_parentheses() -> None:
    code = "import ctypes; ctypes.CDLL(None).prctl(15, b'a) R 1 (b', 0, 0, 0); input('up\\n')"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        before = start_time(child.pid)
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        assert start_time(child.pid) == before
        child.communicate()


def test_resident_bytes_counts_memory_that_was_touched() -> None:
    before = resident_bytes(os.getpid())
    held = bytearray(os.urandom(1) * (64 * 1024**2))
    assert resident_bytes(os.getpid()) - before > 48 * 1024**2
    del held


def test_bytes_read_counts_what_was_read() -> None:
    before = bytes_read(os.getpid())
    with open("/dev/zero", "rb") as file:
        file.read(1024**2)
    assert bytes_read(os.getpid()) - before >= 1024**2


def test_a_process_that_ended_holds_nothing() -> None:
    assert start_time(GONE) is None
    assert resident_bytes(GONE) == 0
    assert bytes_read(GONE) == 0
