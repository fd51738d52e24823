"""The nodes that share the store, by their secrets: in memory, read periodically."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, Mapping

from modelium.errors import ModeliumError
from modelium.models.api_keys import digest
from modelium.models.nodes import SECRET_PREFIX
from modelium.ports import Clock

logger = logging.getLogger(__name__)

REFRESH_S = 10.0
"""Delay until a node that was removed is refused."""

SOONEST_S = 1.0
"""A secret that is not known has them read again, no more often than this."""


class Identities:
    """Which node shows a secret. A store that is not shared has none."""

    def __init__(self, *, read: Callable[[], Awaitable[Mapping[str, str]]], clock: Clock) -> None:
        """``read``: returns the digest of each node's secret → the node."""
        self._read = read
        self._clock = clock
        self._nodes: Mapping[str, str] = {}
        self._wanted = asyncio.Event()

    def find(self, secret: bytes) -> str | None:
        """Return the node that ``secret`` is of; ``None``: of none that is known."""
        shown = digest(secret)
        found: str | None = None
        for known, node in self._nodes.items():
            # Of digests, which nobody can choose; compared in constant time nevertheless.
            if hmac.compare_digest(known, shown):
                found = node
        if found is None:
            self._wanted.set()
        return found

    @property
    def count(self) -> int:
        """How many nodes there are, this one included."""
        return len(self._nodes)

    async def refresh(self) -> None:
        """Read them."""
        self._nodes = await self._read()

    async def run(self) -> None:
        """Refresh periodically, for ever; on a failure the previous ones stay."""
        while True:
            await self._clock.sleep(SOONEST_S)
            waiting = asyncio.ensure_future(self._wanted.wait())
            pause = asyncio.ensure_future(self._clock.sleep(REFRESH_S - SOONEST_S))
            try:
                await asyncio.wait({waiting, pause}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()
                pause.cancel()
            self._wanted.clear()
            try:
                await self.refresh()
            except ModeliumError as exc:
                logger.warning("cannot read the nodes, the previous ones stay known: %s", exc)
            except Exception:
                logger.exception("cannot read the nodes, the previous ones stay known")


def looks_like_node(presented: bytes) -> bool:
    """Whether ``presented`` has the form of a node's secret, valid or not."""
    return presented.startswith(SECRET_PREFIX.encode())
