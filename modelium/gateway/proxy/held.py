"""The memory that bodies of requests take, from their first byte on (no I/O here)."""

from __future__ import annotations

from modelium.errors import Unavailable
from modelium.gateway.problems import HttpProblem

MAX_HELD_BYTES = 1024**3
"""Limit for the bodies of all requests that arrive, wait or are in flight."""

SHARE = 0.5
"""What one client may hold of that, so that there is room for the others."""

RETRY_AFTER_S = 5.0


class HeldBytes:
    """Counts the bytes of all bodies, and those of each client."""

    def __init__(self, *, most: int = MAX_HELD_BYTES) -> None:
        """``most``: bytes for all clients together."""
        self._most = most
        self._most_each = max(1, round(most * SHARE))
        self._all = 0
        self._each: dict[str, int] = {}

    @property
    def total(self) -> int:
        """The bytes of all bodies."""
        return self._all

    def holding(self, client: str) -> Holding:
        """Return the share of one request of ``client``: a key's id, or an address."""
        return Holding(self, client)

    def take(self, client: str, size: int) -> None:
        """Count ``size`` further bytes of ``client``.

        Raises:
            HttpProblem: 429, the client holds its share already.
            Unavailable: all clients together do.
        """
        if self._all + size > self._most:
            raise Unavailable(
                f"request bodies use all of the gateway's {self._most} bytes; retry",
                retry_after_s=RETRY_AFTER_S,
            )
        held = self._each.get(client, 0) + size
        if held > self._most_each:
            raise HttpProblem(
                429,
                f"the bodies of this client's requests use all of its {self._most_each} bytes; "
                "send fewer at once",
                reason="too-much-at-once",
                retry_after_s=RETRY_AFTER_S,
            )
        self._all += size
        self._each[client] = held

    def give_back(self, client: str, size: int) -> None:
        """Count ``size`` bytes of ``client`` no longer."""
        self._all -= size
        left = self._each.get(client, 0) - size
        if left > 0:
            self._each[client] = left
        else:
            self._each.pop(client, None)


class Holding:
    """What one request's body takes; leaving it as a context manager gives all back."""

    __slots__ = ("_bytes", "_client", "_size")

    def __init__(self, held: HeldBytes, client: str) -> None:
        self._bytes = held
        self._client = client
        self._size = 0

    def grow(self, size: int) -> None:
        """Count ``size`` bytes more; raises as `HeldBytes.take`."""
        self._bytes.take(self._client, size)
        self._size += size

    def __enter__(self) -> Holding:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._size:
            self._bytes.give_back(self._client, self._size)
            self._size = 0
