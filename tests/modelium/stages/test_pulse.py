"""Whoever waits for a change is woken by it, or looks again after a while."""

from __future__ import annotations

import asyncio

from modelium.stages.pulse import POLL_S, Pulse
from tests.fakes.clock import FakeClock


async def test_a_beat_wakes_all_who_wait() -> None:
    pulse, clock = Pulse(), FakeClock(hurried=False)
    waits = [asyncio.create_task(pulse.wait(clock)) for _ in range(2)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    pulse.beat()
    await asyncio.gather(*waits)
    assert clock.monotonic() == 0.0


async def test_without_a_beat_the_wait_ends_by_itself() -> None:
    pulse, clock = Pulse(), FakeClock()
    await pulse.wait(clock)
    assert clock.slept == [POLL_S]


async def test_a_beat_before_the_wait_is_not_kept() -> None:
    pulse, clock = Pulse(), FakeClock()
    pulse.beat()
    await pulse.wait(clock, limit_s=0.25)
    assert clock.slept == [0.25]
