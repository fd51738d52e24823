"""The share of the network that fetches may take."""

from __future__ import annotations

from modelium.ports import Clock

SMALL_BYTES = 8 * 1024**2
"""Fetches below say more of the connection's set-up than of its rate."""


class Bandwidth:
    """Lets so many bytes a second through, over all who ask. Belongs to one event loop."""

    def __init__(self, *, clock: Clock) -> None:
        """Nothing was let through yet."""
        self._clock = clock
        self._free_at = 0.0

    async def take(self, count: int, *, per_s: float | None) -> None:
        """Wait until ``count`` bytes may be transferred; ``per_s``: bytes, ``None``: no limit."""
        if per_s is None:
            return
        now = self._clock.monotonic()
        begin = max(now, self._free_at)
        self._free_at = begin + count / per_s
        if begin > now:
            await self._clock.sleep(begin - now)


class FetchRate:
    """How fast files were fetched last."""

    def __init__(self) -> None:
        """Nothing was fetched yet."""
        self.bytes_per_s: float | None = None
        """``None``: not known."""

    def note(self, count: int, seconds: float) -> None:
        """Note a fetch of ``count`` bytes; one too small to tell the rate is left out."""
        if seconds > 0 and count >= SMALL_BYTES:
            self.bytes_per_s = count / seconds
