"""Real processes that hang or work, on a fake clock."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from runtimes.process.stall_detector import StallDetector
from tests.runtimes.clock import FakeClock
from tests.runtimes.worker import Worker


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


@pytest.mark.parametrize(("bytes_", "stalled_s"), [(1024**2, 0), (1024**2 - 1, 200)])
def test_a_mebibyte_read_is_progress(bytes_: int, stalled_s: float) -> None:
    clock = FakeClock()
    with Worker() as worker:
        detector = StallDetector(clock=clock)
        assert detector.stalled_s([worker.pid]) == 0
        worker.read(bytes_)
        clock.now += 200
        assert detector.stalled_s([worker.pid]) == stalled_s
        clock.now += 100
        assert detector.stalled_s([worker.pid]) == stalled_s + 100


def test_computing_is_progress_where_it_takes_a_tenth_of_a_processor() -> None:
    clock = FakeClock()
    with Worker() as worker:
        detector = StallDetector(clock=clock)
        detector.stalled_s([worker.pid])
        took = worker.compute(0.15)
        clock.now += took / 0.1 + 0.1
        assert detector.stalled_s([worker.pid]) == pytest.approx(took / 0.1 + 0.1)
        clock.now -= 0.2
        assert detector.stalled_s([worker.pid]) == 0
        clock.now += 100
        assert detector.stalled_s([worker.pid]) == pytest.approx(100), "nothing since"


def test_a_look_right_after_another_needs_no_less_than_a_tenth_of_a_second() -> None:
    clock = FakeClock()
    with Worker() as worker:
        detector = StallDetector(clock=clock)
        detector.stalled_s([worker.pid])
        worker.compute(0.05)
        clock.now += 0.25
        assert detector.stalled_s([worker.pid]) == 0.25


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
