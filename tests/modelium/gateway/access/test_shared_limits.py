"""Limits of keys over two gateways: who waits for the pools, and what happens without them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from modelium.errors import StoreUnavailable
from modelium.gateway.access.keyring import KeyHolder
from modelium.gateway.access.limits import SETTLE_S, SharedLimits
from modelium.gateway.access.shares import AWAY_S, IDLE_S
from modelium.gateway.problems import HttpProblem
from modelium.models.api_keys import ApiKey
from modelium.models.key_pools import HOLD_S, Ask, Grant, Pool, settled
from tests.fakes.clock import FakeClock


class Pools:
    """The pools of all keys, on the test's own clock; `hold` keeps the answers back."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.pools: dict[str, Pool] = {}
        self.asked: list[Mapping[str, Ask]] = []
        self.answering = asyncio.Event()
        self.answering.set()
        self.away = False

    def gateway(self, name: str) -> SharedLimits:
        async def ask(asks: Mapping[str, Ask]) -> dict[str, Grant]:
            self.asked.append(asks)
            await self.answering.wait()
            if self.away:
                raise StoreUnavailable("the store is away")
            grants = {}
            for key, one in asks.items():
                self.pools[key], grants[key] = settled(
                    self.pools.get(key, Pool()), one, gateway=name, now=self.clock.time()
                )
            return grants

        return SharedLimits(ask=ask, gateways=lambda: 2, clock=self.clock)


def holder(limits: SharedLimits, clock: FakeClock, **terms: float) -> KeyHolder:
    key = ApiKey.model_validate({"id": "k", "name": "n", "created_at": 0.0, **terms})
    return KeyHolder(key=key, priority=None, clock=clock, limits=limits)


async def admitted(one: KeyHolder, most: int = 100) -> int:
    for number in range(most):
        try:
            await one.admit()
        except HttpProblem as exc:
            assert (exc.status, exc.retry_after_s is not None) == (429, True)
            return number
    return most


async def passes(clock: FakeClock, seconds: float) -> None:
    for _ in range(round(seconds / SETTLE_S)):
        clock.advance(SETTLE_S)
        for _ in range(10):
            await asyncio.sleep(0)


async def test_two_gateways_together_admit_what_one_would() -> None:
    clock = FakeClock(hurried=False)
    pools = Pools(clock)
    one, other = (holder(pools.gateway(name), clock, requests_per_minute=20) for name in "ab")
    first, second = await admitted(one, 12), await admitted(other)
    assert first == 12 and second >= 4
    assert first + second + await admitted(one) == 20, "what it took ahead is its own"


async def test_what_is_not_used_returns_by_itself() -> None:
    clock = FakeClock(hurried=False)
    pools = Pools(clock)
    a, b = pools.gateway("a"), pools.gateway("b")
    running = asyncio.create_task(a.run())
    await clock.asleep()
    one, other = holder(a, clock, max_concurrent=3), holder(b, clock, max_concurrent=3)
    assert (await admitted(one, 3), await admitted(other)) == (3, 0)
    for _ in range(3):
        one.leave()
    await passes(clock, IDLE_S + 2 * SETTLE_S)
    assert await admitted(other) == 3
    rated, elsewhere = (holder(each, clock, requests_per_minute=4) for each in (a, b))
    rated.key = elsewhere.key = rated.key.model_copy(update={"id": "rated"})
    assert await admitted(rated, 2) == 2
    await passes(clock, HOLD_S + 2 * SETTLE_S)
    assert await admitted(elsewhere) == 2
    running.cancel()


async def test_requests_that_come_at_once_wait_for_one_answer_and_outlive_who_asked() -> None:
    clock = FakeClock()
    pools = Pools(clock)
    one = holder(pools.gateway("a"), clock, max_concurrent=1)
    pools.answering.clear()
    asking = [asyncio.create_task(one.admit()) for _ in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(pools.asked) == 1
    asking[0].cancel()
    pools.answering.set()
    told = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(told[0], asyncio.CancelledError)
    assert told[1] is None
    assert isinstance(told[2], HttpProblem) and told[2].reason == "too-many-at-once"


async def test_a_store_that_is_away_leaves_each_gateway_its_part() -> None:
    clock = FakeClock()
    pools = Pools(clock)
    one = holder(pools.gateway("a"), clock, max_concurrent=4)
    pools.away = True
    assert await admitted(one) == 2
    assert len(pools.asked) == 1, "it is not asked again for each request"
    pools.away = False
    clock.advance(AWAY_S)
    assert await admitted(one) == 2


async def test_keys_without_limits_ask_nobody() -> None:
    clock = FakeClock()
    pools = Pools(clock)
    one = holder(pools.gateway("a"), clock)
    assert await admitted(one) == 100
    for _ in range(100):
        one.leave()
    assert pools.asked == []


@pytest.mark.parametrize("limit", ["max_concurrent", "requests_per_minute"])
async def test_a_refusal_names_the_keys_own_limit(limit: str) -> None:
    clock = FakeClock()
    one = holder(Pools(clock).gateway("a"), clock, **{limit: 3})
    assert await admitted(one) == 3
    with pytest.raises(HttpProblem, match=r"already has 3 |limited to 3 requests"):
        await one.admit()
