"""Limits of keys that hold over all gateways: asks the store for shares of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from modelium.errors import ModeliumError
from modelium.gateway.access.shares import Share, Shortage
from modelium.models.api_keys import ApiKey
from modelium.models.key_pools import Ask, Grant
from modelium.ports import Clock

logger = logging.getLogger(__name__)

SETTLE_S = 1.0
"""Between two rounds in which what is not used is given back."""

AskPools = Callable[[Mapping[str, Ask]], Awaitable[Mapping[str, Grant]]]
"""Key's id → what this gateway wants of its limits; returns what it got."""


class SharedLimits:
    """The shares of all keys at this gateway. Belongs to one event loop."""

    def __init__(self, *, ask: AskPools, gateways: Callable[[], int], clock: Clock) -> None:
        """Hold nothing.

        Args:
            ask: of whoever keeps the pools; raises `ModeliumError` where nobody answers.
            gateways: how many there are: while nobody answers, each goes by its part.
            clock: for rates.
        """
        self._ask_pools = ask
        self._gateways = gateways
        self._clock = clock
        self._shares: dict[str, Share] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}

    async def enter(self, key: ApiKey) -> Shortage | None:
        """Count the start of a request, for which `leave` is called; or return why it does not fit.

        It waits for the store only where this gateway holds nothing of the key's limits.
        """
        share = self._shares.get(key.id)
        if share is None:
            share = self._shares[key.id] = Share(
                per_minute=key.requests_per_minute,
                most=key.max_concurrent,
                now=self._clock.monotonic(),
            )
        while not share.enter(now := self._clock.monotonic()):
            asking = self._asking.get(key.id)
            if asking is None:
                ask = share.wants(now)
                if ask is None:
                    return share.shortage(now)
                asking = asyncio.create_task(self._settle({key.id: ask}), name=f"key {key.id}")
                self._asking[key.id] = asking
                asking.add_done_callback(lambda _: self._asking.pop(key.id, None))
            # Others wait for the same answer: one that leaves must not cancel it.
            await asyncio.shield(asking)
        return None

    def leave(self, key: ApiKey) -> None:
        """Count the end of a request."""
        self._shares[key.id].leave()

    async def run(self) -> None:
        """Give back what is not used, for ever."""
        while True:
            await self._clock.sleep(SETTLE_S)
            now = self._clock.monotonic()
            due = {
                key: ask
                for key, share in self._shares.items()
                if key not in self._asking and (ask := share.due(now)) is not None
            }
            if due:
                await self._settle(due)

    async def _settle(self, asks: Mapping[str, Ask]) -> None:
        asked_at = self._clock.monotonic()
        try:
            grants = await self._ask_pools(asks)
        except ModeliumError as exc:
            logger.warning("limits of keys hold for this gateway's part for now: %s", exc)
            now = self._clock.monotonic()
            for key, ask in asks.items():
                self._shares[key].on_away(ask, gateways=self._gateways(), now=now)
            return
        now = self._clock.monotonic()
        for key, ask in asks.items():
            self._shares[key].on_grant(ask, grants[key], asked_at=asked_at, now=now)
