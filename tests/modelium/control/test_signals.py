"""Signals keep demand and wanted ticks until the control loop takes them."""

from __future__ import annotations

import asyncio

from modelium.control.signals import Signals


async def test_a_model_in_demand_is_returned_once_however_often_it_was_reported() -> None:
    signals = Signals()
    for model in ("a", "b", "a"):
        signals.on_demand(model)
    assert await signals.demanded() == ("a", "b")


async def test_demand_is_waited_for() -> None:
    signals = Signals()
    waiting = asyncio.create_task(signals.demanded())
    await asyncio.sleep(0)
    assert not waiting.done()
    signals.on_demand("a")
    assert await waiting == ("a",)
    again = asyncio.create_task(signals.demanded())
    await asyncio.sleep(0)
    assert not again.done(), "what was taken is not returned again"
    again.cancel()


async def test_an_unreachable_upstream_makes_a_tick_wanted() -> None:
    signals = Signals()
    assert not signals.tick_wanted.is_set()
    signals.on_unreachable("a")
    assert signals.tick_wanted.is_set()


async def test_a_failed_answer_makes_a_tick_wanted() -> None:
    signals = Signals()
    signals.on_failed_answer("a")
    assert signals.tick_wanted.is_set()
