"""Requests without valid credentials: counted, logged and, past a few, answered slowly."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from modelium.gateway.connections import peer_of
from modelium.gateway.problems import HttpProblem
from modelium.ports import Clock

logger = logging.getLogger(__name__)

MISSING = "missing"
"""The reason of a request that presents nothing, which is no guess and not slowed."""

FREE = 10
"""Wrong credentials of one peer within `MINUTE_S` that are answered at once."""

MINUTE_S = 60.0

SLOW_S = 1.0
"""Delay of further answers; a connection is not held for longer."""

MOST_SLOWED_EACH = 4
MOST_SLOWED = 64
"""Answers that are delayed at a time, of one peer and of all; others are a 429 at once."""

MOST_PEERS = 1024
"""Peers that are remembered; the one that was noticed first is forgotten for a new one."""

MOST_LINES = 20
"""Lines in the log within `MINUTE_S`, each of another peer."""


@dataclass(slots=True)
class _Peer:
    since: float
    """When its minute began."""
    wrong: int = 0
    """Wrong credentials in this minute."""
    unlogged: int = 0
    logged_at: float | None = None
    slowed: int = 0


class Strangers:
    """The peers whose requests were answered with 401. Valid credentials are never slowed.

    They are slowed for the sake of the log and the CPU, and of tokens that people made up: a key
    cannot be guessed. IPv6 addresses of one /64 are one peer.
    """

    def __init__(self, *, clock: Clock, count: Callable[[str], None]) -> None:
        """``count``: called with the reason of each 401."""
        self._clock = clock
        self._count = count
        self._peers: dict[str, _Peer] = {}
        self._slowed = 0
        self._lines_since = clock.monotonic()
        self._lines = 0

    async def refused(self, address: str, *, reason: str, request: str) -> None:
        """Take note of a 401, and return when it may be sent.

        Args:
            address: of the client.
            reason: a slug for metric and log.
            request: method and path, for the log. It may have any characters, but no secret.

        Raises:
            HttpProblem: 429, in its place: too many answers to this peer, or to all, are delayed.
        """
        self._count(reason)
        now = self._clock.monotonic()
        peer = self._peer(name := peer_of(address), now)
        self._log(name, peer, reason, request, now)
        if reason == MISSING:
            return
        peer.wrong += 1
        if peer.wrong <= FREE:
            return
        if peer.slowed >= MOST_SLOWED_EACH or self._slowed >= MOST_SLOWED:
            raise HttpProblem(
                429,
                "too many requests with wrong credentials from this address",
                reason="too-many-refused",
                retry_after_s=SLOW_S,
            )
        peer.slowed += 1
        self._slowed += 1
        try:
            await self._clock.sleep(SLOW_S)
        finally:
            peer.slowed -= 1
            self._slowed -= 1

    def _peer(self, name: str, now: float) -> _Peer:
        peer = self._peers.get(name)
        if peer is None:
            if len(self._peers) >= MOST_PEERS:
                del self._peers[next(iter(self._peers))]
            peer = self._peers[name] = _Peer(since=now)
        elif now - peer.since >= MINUTE_S:
            peer.since, peer.wrong = now, 0
        return peer

    def _log(self, name: str, peer: _Peer, reason: str, request: str, now: float) -> None:
        if now - self._lines_since >= MINUTE_S:
            self._lines_since, self._lines = now, 0
        recent = peer.logged_at is not None and now - peer.logged_at < MINUTE_S
        if recent or self._lines >= MOST_LINES:
            peer.unlogged += 1
            return
        before = f"; {peer.unlogged} more since the last line" if peer.unlogged else ""
        logger.warning("%s: 401 %s, %.100r%s", name, reason, request, before)
        self._lines += 1
        if self._lines == MOST_LINES:
            logger.warning("further addresses with 401 are not logged for a minute")
        peer.logged_at, peer.unlogged = now, 0
