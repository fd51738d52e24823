"""Limits of API keys, and their use over a refresh."""

from __future__ import annotations

import pytest

from modelium.gateway.access.keyring import KeyHolder, Keyring
from modelium.gateway.problems import HttpProblem
from modelium.models.api_keys import ApiKey, digest


class ManualClock:
    now = 0.0

    def time(self) -> float:
        return self.now

    def system_time(self) -> float:
        return self.time()

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def admitted(holder: KeyHolder, requests: int) -> int:
    """How many of ``requests`` at once get in; all of them end."""
    count = 0
    for _ in range(requests):
        try:
            holder.enter()
        except HttpProblem as problem:
            assert problem.status == 429
        else:
            holder.leave()
            count += 1
    return count


def key(**terms: object) -> ApiKey:
    return ApiKey.model_validate({"id": "k", "name": "n", "created_at": 0.0, **terms})


def test_rate_refills_with_time_up_to_a_minutes_worth() -> None:
    clock = ManualClock()
    holder = KeyHolder(key=key(requests_per_minute=6), priority=None, clock=clock)
    assert admitted(holder, 10) == 6
    with pytest.raises(HttpProblem) as refused:
        holder.enter()
    assert refused.value.retry_after_s == pytest.approx(10.0)
    clock.now += 20.0
    assert admitted(holder, 10) == 2
    clock.now += 3600.0
    assert admitted(holder, 10) == 6


async def test_refresh_keeps_what_is_left_of_a_keys_limits() -> None:
    clock = ManualClock()
    secret = b"mdl_secret"
    stored = {digest(secret): key(requests_per_minute=2)}

    async def read() -> dict[str, ApiKey]:
        return stored

    ring = Keyring(read=read, clock=clock, important_teams=frozenset())
    await ring.refresh()
    holder = ring.find(secret)
    assert holder is not None
    assert admitted(holder, 3) == 2
    await ring.refresh()
    again = ring.find(secret)
    assert again is not None
    assert admitted(again, 1) == 0
