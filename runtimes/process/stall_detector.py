"""Tells a process that works slowly from one that hangs."""

from __future__ import annotations

from collections.abc import Iterable

from modelium.ports import Clock
from runtimes.process import proc

BUSY_SHARE = 0.1
"""Share of one processor below which a process counts as idle: Ray's own threads take 1-2 %."""
READ_BYTES = 1024**2
"""Bytes read that count as progress; heartbeats read far less."""


class StallDetector:
    """Measures how long processes have neither read a notable amount nor computed.

    Loading a model does one or the other: even paging in a mapped file costs processor time.
    """

    def __init__(self, *, clock: Clock) -> None:
        """Count from now on."""
        self._clock = clock
        self._pids: tuple[int, ...] = ()
        self._since = clock.monotonic()
        self._cpu_s = 0.0
        self._read = 0

    def stalled_s(self, pids: Iterable[int]) -> float:
        """Measure ``pids`` and return the seconds since their last progress.

        A set of processes other than the last one counts as progress.
        """
        now, seen = self._clock.monotonic(), tuple(sorted(pids))
        found = [process for pid in seen if (process := proc.entry(pid))]
        cpu_s = sum(process.cpu_s for process in found)
        read = proc.bytes_read(seen)
        busy = cpu_s - self._cpu_s > BUSY_SHARE * max(now - self._since, 1.0)
        if not seen or seen != self._pids or busy or read - self._read >= READ_BYTES:
            self._pids, self._since, self._cpu_s, self._read = seen, now, cpu_s, read
        return now - self._since
