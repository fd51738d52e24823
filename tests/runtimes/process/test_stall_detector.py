"""Real processes that hang or work, on a fake clock."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


def test_computing_is_progress() -> None:
    clock = FakeClock()
    with child("while True: pass") as process:
        detector = StallDetector(clock=clock)
        detector.stalled_s([process.pid])
        first = proc.entry(process.pid)
        assert first is not None
        while (now := proc.entry(process.pid)) and now.cpu_s - first.cpu_s < 0.3:
            pass
        clock.now += 1
        assert detector.stalled_s([process.pid]) == 0


def test_other_processes_begin_anew() -> None:
    clock = FakeClock()
    with child("input()") as one, child("input()") as other:
        detector = StallDetector(clock=clock)
        detector.stalled_s([one.pid])
        clock.now += 100
        assert detector.stalled_s([other.pid]) == 0
        assert detector.stalled_s([]) == 0
