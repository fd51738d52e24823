"""Tells a process that works slowly from one that hangs."""

from __future__ import annotations

from collections.abc import Iterable

from modelium.ports import Clock
from runtimes.process import proc

BUSY = 0.1
"""Share of one processor below which a process counts as idle: Ray's own threads take 1-2 %."""
READ_BYTES = 1024**2
"""Bytes read that count as progress; heartbeats read far less."""


class Stillness:
    """How long processes have neither read anything to speak of nor computed.

    A load is one or the other: even pages that are mapped in cost processor time.
    """

    def __init__(self, *, clock: Clock) -> None:
        """Begin now."""
        self._clock = clock
        self._pids: tuple[int, ...] = ()
        self._since = clock.monotonic()
        self._cpu_s = 0.0
        self._read = 0

    def seconds(self, pids: Iterable[int]) -> float:
        """Look again. Other processes than last time begin anew."""
        now, seen = self._clock.monotonic(), tuple(sorted(pids))
        processes = [process for pid in seen if (process := proc.entry(pid))]
        cpu_s = sum(process.cpu_s for process in processes)
        read = proc.read_bytes(seen)
        busy = cpu_s - self._cpu_s > BUSY * max(now - self._since, 1.0)
        if not seen or seen != self._pids or busy or read - self._read >= READ_BYTES:
            self._pids, self._since, self._cpu_s, self._read = seen, now, cpu_s, read
        return now - self._since
