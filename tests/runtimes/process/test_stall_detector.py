"""Real processes that hang or work, on a fake clock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtimes.process import proc
from runtimes.process.stall_detector import StallDetector
from tests.runtimes.clock import FakeClock


@contextmanager
def child(code: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline().strip() == word


def test_a_process_that_sleeps_is_still() -> None:
    clock = FakeClock()
    with child("import time; print('up', flush=True); time.sleep(600)") as process:
        said(process, "up")
        detector = StallDetector(clock=clock)
        assert detector.stalled_s([process.pid]) == 0
        clock.now += 200
        assert detector.stalled_s([process.pid]) == 200
        clock.now += 200
        assert detector.stalled_s([process.pid]) == 400


def test_reading_weights_is_progress(tmp_path: Path) -> None:
    clock = FakeClock()
    (tmp_path / "weights").write_bytes(bytes(4 * 1024**2))
    code = f"input(); open({str(tmp_path / 'weights')!r}, 'rb').read(); print('read', flush=True)"
    with child(code + "; input()") as process:
        assert process.stdin is not None
        detector = StallDetector(clock=clock)
        detector.stalled_s([process.pid])
        process.stdin.write("\n")
        process.stdin.flush()
        said(process, "read")
        clock.now += 200
        assert detector.stalled_s([process.pid]) == 0


COMMANDED = """
import os, time
while command := os.read(0, 1):
    if command == b"r":
        with open("/dev/zero", "rb", buffering=0) as zero:
            zero.read(1024**2 - 1)
    elif command == b"s":
        with open("/dev/zero", "rb", buffering=0) as zero:
            zero.read(1024**2 - 2)
    elif command != b"u":
        until = time.process_time() + (0.15 if command == b"c" else 0.05)
        while time.process_time() < until:
            pass
    os.write(1, b"done\\n")
"""
"""Reads 1 MiB with the command (r) or one byte less (s), computes 0.15 s (c) or 0.05 s (d)."""


def do(process: subprocess.Popen[str], command: str) -> None:
    assert process.stdin is not None
    process.stdin.write(command)
    process.stdin.flush()
    said(process, "done")
    os.kill(process.pid, signal.SIGSTOP)  # so that nothing changes while the test looks
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)


def measured(process: subprocess.Popen[str], clock: FakeClock, command: str) -> StallDetector:
    """Return a detector that has seen ``process`` before it did ``command``."""
    do(process, "u")
    detector = StallDetector(clock=clock)
    assert detector.stalled_s([process.pid]) == 0
    os.kill(process.pid, signal.SIGCONT)
    do(process, command)
    return detector


@pytest.mark.parametrize(("command", "stalled_s"), [("r", 0), ("s", 200)])
def test_a_mebibyte_read_is_progress(command: str, stalled_s: float) -> None:
    clock = FakeClock()
    with child(COMMANDED) as process:
        detector = measured(process, clock, command)
        clock.now += 200
        assert detector.stalled_s([process.pid]) == stalled_s
        clock.now += 100
        assert detector.stalled_s([process.pid]) == stalled_s + 100


def test_computing_is_progress_where_it_takes_a_tenth_of_a_processor() -> None:
    clock = FakeClock()
    with child(COMMANDED) as process:
        do(process, "u")
        before = proc.cpu_s([process.pid])
        detector = StallDetector(clock=clock)
        detector.stalled_s([process.pid])
        os.kill(process.pid, signal.SIGCONT)
        do(process, "c")
        took = proc.cpu_s([process.pid]) - before
        clock.now += took / 0.1 + 0.1
        assert detector.stalled_s([process.pid]) == pytest.approx(took / 0.1 + 0.1)
        clock.now -= 0.2
        assert detector.stalled_s([process.pid]) == 0
        clock.now += 100
        assert detector.stalled_s([process.pid]) == pytest.approx(100), (
            "it has computed nothing since"
        )


def test_a_look_right_after_another_needs_no_less_than_a_tenth_of_a_second() -> None:
    clock = FakeClock()
    with child(COMMANDED) as process:
        detector = measured(process, clock, "d")
        clock.now += 0.25
        assert detector.stalled_s([process.pid]) == 0.25


def test_other_processes_begin_anew() -> None:
    clock = FakeClock()
    with child("input()") as one, child("input()") as other:
        detector = StallDetector(clock=clock)
        detector.stalled_s([one.pid])
        clock.now += 100
        assert detector.stalled_s([other.pid]) == 0
        clock.now += 100
        assert detector.stalled_s([other.pid, one.pid]) == 0
        clock.now += 100
        assert detector.stalled_s([one.pid, other.pid]) == 100, "in any order"
        assert detector.stalled_s([]) == 0
        clock.now += 100
        assert detector.stalled_s([]) == 0


def test_time_counts_from_the_first_look_on() -> None:
    clock = FakeClock()
    detector = StallDetector(clock=clock)
    clock.now += 100
    assert detector.stalled_s([2**22 + 1]) == 0
    clock.now += 100
    assert detector.stalled_s([2**22 + 1]) == 100
