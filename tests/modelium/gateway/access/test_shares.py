"""Limits of one key over several gateways, in virtual time: what they admit together, and lose."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from modelium.gateway.access.limits import SETTLE_S
from modelium.gateway.access.shares import AWAY_S, IDLE_S, RECHECK_S, SOONEST_S, Share
from modelium.models.key_pools import EXCESS_S, HOLD_S, SLOTS_S, Ask, Pool, settled


class Gateways:
    """Some gateways and the pool of one key; time passes by `at`."""

    def __init__(
        self, count: int, *, per_minute: float | None = None, most: int | None = None
    ) -> None:
        self.now = 0.0
        self.pool = Pool()
        self.reachable = True
        self.asked = 0
        self.admitted: list[float] = []
        self.shares = [Share(per_minute=per_minute, most=most, now=0.0) for _ in range(count)]
        self._settled_at = 0.0

    def at(self, now: float) -> None:
        """Let time pass; each gateway gives back what it does not use."""
        while self._settled_at + SETTLE_S <= now:
            self._settled_at += SETTLE_S
            self.now = self._settled_at
            for gateway, share in enumerate(self.shares):
                if (ask := share.due(self.now)) is not None:
                    self._ask(gateway, ask)
        self.now = now

    def request(self, gateway: int) -> bool:
        """Whether a request is admitted; `Share.leave` ends it."""
        share = self.shares[gateway]
        while not share.enter(self.now):
            if (ask := share.wants(self.now)) is None:
                return False
            self._ask(gateway, ask)
        self.admitted.append(self.now)
        return True

    def _ask(self, gateway: int, ask: Ask) -> None:
        share = self.shares[gateway]
        if not self.reachable:
            share.on_away(ask, gateways=len(self.shares), now=self.now)
            return
        self.asked += 1
        self.pool, grant = settled(self.pool, ask, gateway=str(gateway), now=self.now)
        share.on_grant(ask, grant, asked_at=self.now, now=self.now)

    @property
    def in_flight(self) -> int:
        return sum(share.used for share in self.shares)


def excess(admitted: Sequence[float], per_minute: float) -> float:
    """How many requests the worst window has beyond a minute's allowance and its own rate."""
    per_s, worst = per_minute / 60, 0.0
    # With `c(t)` admitted up to t, the worst window is where c(t) - per_s * t rises the most.
    low = float("inf")
    for index, at in enumerate(admitted):
        low = min(low, index - per_s * at)
        worst = max(worst, index + 1 - per_s * at - low)
    return worst - per_minute


@pytest.mark.parametrize("per_minute", [3.0, 60.0, 1200.0])
@pytest.mark.parametrize("count", [1, 2, 5, 16])
@pytest.mark.parametrize("seed", range(3))
def test_all_gateways_together_admit_the_rate_and_a_few_seconds_of_it_more(
    per_minute: float, count: int, seed: int
) -> None:
    chance = random.Random(seed)
    gateways = Gateways(count, per_minute=per_minute)
    busy = list(range(count))
    now = 0.0
    while now < 300 and len(gateways.admitted) < 4000:
        # Bursts and pauses, at some of the gateways or at all.
        if chance.random() < 0.01:
            busy = chance.sample(range(count), chance.randint(1, count))
            now += chance.choice((0.0, 0.0, 1.0, 5.0, 70.0))
        now += chance.expovariate(per_minute / 60 * chance.choice((0.5, 2.0, 10.0)))
        gateways.at(now)
        if gateways.request(gateway := chance.choice(busy)):
            gateways.shares[gateway].leave()
    assert len(gateways.admitted) > min(per_minute, 100)
    assert excess(gateways.admitted, per_minute) <= per_minute / 60 * EXCESS_S + 1e-6


@pytest.mark.parametrize("per_minute", [60.0, 600.0])
def test_a_client_that_stays_at_one_gateway_gets_the_whole_limit(per_minute: float) -> None:
    gateways = Gateways(8, per_minute=per_minute)
    for tenth in range(3000):
        gateways.at(tenth / 10)
        for _ in range(3):
            if gateways.request(0):
                gateways.shares[0].leave()
    allowed = per_minute * 6  # a minute's at once, and five minutes of the rate
    assert allowed * 0.97 <= len(gateways.admitted) <= allowed + 1
    assert gateways.asked <= 300 * (1 / SOONEST_S + 1), "a few questions a second at most"


def test_a_steady_client_rarely_waits_for_the_store() -> None:
    gateways = Gateways(4, per_minute=6000)
    for hundredth in range(3000):
        gateways.at(hundredth / 100)
        assert gateways.request(0)
        gateways.shares[0].leave()
    assert gateways.asked <= 3000 / 20


def test_what_one_gateway_does_not_use_another_has_within_seconds() -> None:
    gateways = Gateways(2, per_minute=60)
    for second in range(3):  # it takes ahead what it then does not use
        gateways.at(second)
        for _ in range(10):
            assert gateways.request(0)
            gateways.shares[0].leave()
    before = len(gateways.admitted)
    gateways.at(2 + HOLD_S + SETTLE_S)
    while gateways.request(1):
        gateways.shares[1].leave()
    assert len(gateways.admitted) - before >= 60 - before


def test_requests_in_flight_never_exceed_the_limit_and_wander_with_the_load() -> None:
    chance = random.Random(1)
    gateways = Gateways(4, most=7)
    open_: list[int] = []
    refused_in_a_row = most_refused = 0
    for step in range(4000):
        gateways.at(step / 20)
        if open_ and chance.random() < 0.45:
            gateways.shares[open_.pop(chance.randrange(len(open_)))].leave()
        favourite = step // 500 % 4
        gateway = favourite if chance.random() < 0.9 else chance.randrange(4)
        if gateways.request(gateway):
            open_.append(gateway)
            refused_in_a_row = 0
        elif gateways.in_flight < 7:
            refused_in_a_row += 1
            most_refused = max(most_refused, refused_in_a_row)
        assert gateways.in_flight == len(open_) <= 7
    # In steps of 50 ms.
    assert most_refused / 20 <= IDLE_S + 2 * SETTLE_S + RECHECK_S


def test_the_requests_of_a_dead_gateway_stop_counting() -> None:
    gateways = Gateways(2, most=2)
    assert gateways.request(0) and gateways.request(0)
    assert not gateways.request(1)
    dead = gateways.shares[0]
    gateways.shares[0] = Share(per_minute=None, most=2, now=0.0)
    gateways.at(SLOTS_S + SETTLE_S)
    assert gateways.request(1)
    assert dead.used == 2


def test_requests_in_flight_count_for_as_long_as_they_last() -> None:
    gateways = Gateways(2, most=2)
    assert gateways.request(0) and gateways.request(0)
    gateways.at(10 * SLOTS_S)
    assert not gateways.request(1)
    gateways.shares[0].leave()
    gateways.at(10 * SLOTS_S + IDLE_S + 2 * SETTLE_S)
    assert gateways.request(1)


def test_without_the_store_each_gateway_goes_by_its_part() -> None:
    gateways = Gateways(4, per_minute=240, most=8)
    gateways.reachable = False
    for second in range(60):
        gateways.at(second)
        for gateway in range(4):
            if gateways.request(gateway):
                gateways.shares[gateway].leave()
    assert 200 <= len(gateways.admitted) <= 244
    held = [gateways.request(gateway) for gateway in range(4) for _ in range(4)]
    assert held.count(True) <= 8
    gateways.reachable = True
    for share in gateways.shares:
        while share.used:
            share.leave()
    gateways.at(60 + AWAY_S)
    assert gateways.request(0)
    assert gateways.asked >= 1


def test_a_refusal_says_when_to_come_again() -> None:
    gateways = Gateways(2, per_minute=6)
    while gateways.request(0):
        gateways.shares[0].leave()
    told = gateways.shares[0].shortage(gateways.now)
    assert (told.concurrent, told.retry_after_s) == (False, pytest.approx(10, abs=0.1))
    gateways.at(told.retry_after_s + RECHECK_S)
    assert gateways.request(0)


def test_a_clock_that_is_set_back_gives_nothing_away() -> None:
    ask = Ask(per_minute=60, wanted=60)
    pool, grant = settled(Pool(), ask, gateway="a", now=1000.0)
    assert grant.tokens == 60
    pool, grant = settled(pool, ask, gateway="a", now=0.0)
    assert grant.tokens == 0
    pool, grant = settled(pool, ask, gateway="a", now=1001.0)
    assert grant.tokens == 1
