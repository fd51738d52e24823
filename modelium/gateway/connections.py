"""Which clients may be connected, and for how long without making progress (no I/O here)."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import resource
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

logger = logging.getLogger(__name__)

KEPT_BACK = 256
"""Descriptors for the service's own use: store, engines' pipes, watcher, Prefect."""

PER_REQUEST = 2
"""Descriptors of a request: the client's connection and the engine's."""

MOST = 16384
"""Connections where descriptors would allow more: each takes up to 300 KB while it is read."""

SHARE = 0.75
"""Default for what one address may have of all connections: a proxy has one address, too."""

OPEN_FILES = 65536
"""The soft limit is raised up to here: enough for `MOST`."""

SWEEP_S = 1.0
"""Interval of the search for clients without progress; timers per request would cost more."""

KEEP_ALIVE_S = 75.0
"""Longer than clients keep idle connections (OpenAI's client: 5 s), so that they close first."""

LINGER_S = 10.0
"""How long the rest of a body is discarded after the answer, so that the client reads it."""

UNREAD_S = 120.0
"""How long a client may read nothing of its answer."""

SLOWEST_BYTES_PER_S = 256
"""A body that arrives more slowly is as good as stalled."""

STALLED_S = 2.0
"""A body that pauses for this long gives way to a new connection where there is no other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """Limits for connections."""

    most: int
    """Of all clients."""
    most_each: int
    """Of one address; IPv6 addresses of one /64 count as one."""
    timeout_s: float
    """For the headers of a request, and for each pause within its body."""


class Watched(Protocol):
    """A connection as `Connections` sees it."""

    peer: str

    def yields(self, now: float) -> float | None:
        """Return since when it waits for its client; ``None``: it has a request in work."""

    def overdue(self, now: float) -> bool:
        """Whether its client has taken too long."""

    def end(self) -> None:
        """Close it, with an answer where a request has begun."""


class Connections:
    """All connections of the gateway; closes those that wait for their client for too long.

    Where a limit is reached, the connection that has waited longest for its client gives way to
    the new one: silent clients cannot shut others out.
    """

    def __init__(self, *, bounds: Bounds) -> None:
        """Start without connections."""
        self.bounds = bounds
        self.refused = 0
        self._open: set[Watched] = set()
        self._each: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: Watched, now: float) -> bool:
        """Count a new connection; False: there is no room, close it."""
        peer, bounds = connection.peer, self.bounds
        if self._each[peer] >= bounds.most_each:
            fits = self._make_room(peer, now)
        elif len(self._open) >= bounds.most:
            fits = any(self._make_room(other, now) for other, _ in self._each.most_common(8))
        else:
            fits = True
        if fits:
            self._open.add(connection)
            self._each[peer] += 1
        else:
            if self.refused == 0:
                logger.warning("%s: refused, the limit of connections is reached", peer)
            self.refused += 1
        return fits

    def remove(self, connection: Watched) -> None:
        """Count a connection no longer."""
        if connection in self._open:
            self._open.remove(connection)
            self._each[connection.peer] -= 1
            if not self._each[connection.peer]:
                del self._each[connection.peer]

    async def watch(self) -> None:
        """Close overdue connections, for ever."""
        loop = asyncio.get_running_loop()
        pause = min(SWEEP_S, self.bounds.timeout_s / 4)
        while True:
            await asyncio.sleep(pause)
            now = loop.time()
            for connection in tuple(self._open):
                if connection.overdue(now):
                    connection.end()

    def _make_room(self, peer: str, now: float) -> bool:
        """Close the connection of ``peer`` that has waited longest for its client."""
        waiting = [
            (since, connection)
            for connection in self._open
            if connection.peer == peer and (since := connection.yields(now)) is not None
        ]
        if not waiting:
            return False
        _, longest = min(waiting, key=lambda pair: pair[0])
        self.remove(longest)
        longest.end()
        return True


def bounds_for(
    *, most: int | None, most_each: int | None, timeout_s: float, open_files: int
) -> Bounds:
    """Return the limits; ``None``: what ``open_files``, the limit of descriptors, allows."""
    room = max(open_files - KEPT_BACK, open_files // 2) // PER_REQUEST
    allowed = max(1, min(MOST, room))
    if most is not None and most > allowed:
        logger.warning(
            "gateway.max_connections: %d connections and their engines' do not fit the limit of %d "
            "open files; it is %d",
            most,
            open_files,
            allowed,
        )
    total = min(most or allowed, allowed)
    return Bounds(
        most=total,
        most_each=min(most_each or max(1, round(total * SHARE)), total),
        timeout_s=timeout_s,
    )


def raise_open_files() -> int:
    """Raise this process' soft limit of open files up to `OPEN_FILES`; return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return OPEN_FILES if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


@lru_cache(maxsize=1024)
def peer_of(address: str) -> str:
    """Return what counts as one peer: an address, or an IPv6 network of 64 bits."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address
