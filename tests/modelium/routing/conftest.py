"""Switchboards, requests and virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from modelium.clock import SystemClock
from modelium.models import Upstream
from modelium.routing.switchboard import Switchboard
from modelium.traffic import TrafficBook
from tests.fakes import virtual_time
from tests.fakes.routing import Listener, Waits


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"virtual-time": virtual_time.VirtualTimeLoop}


HERE = Upstream(host="127.0.0.1", port=1, served_name="m", apis=frozenset({"openai"}))
THERE = HERE.model_copy(update={"port": 2})


def board(
    *,
    max_waiting_per_model: int = 10,
    max_wait_s: float = 30.0,
    max_waiting: int = 100,
    repeat_demand_s: float = 2.0,
    listener: Listener | None = None,
    waits: Waits | None = None,
) -> Switchboard:
    made = Switchboard(
        traffic=TrafficBook(clock=SystemClock()),
        listener=listener or Listener(),
        metrics=waits or Waits(),
        max_waiting_per_model=max_waiting_per_model,
        max_wait_s=max_wait_s,
        max_waiting=max_waiting,
        repeat_demand_s=repeat_demand_s,
    )
    made.know(["m", "n"])
    return made


async def until(condition: Callable[[], bool]) -> None:
    """Let callbacks, and then virtual time, run until ``condition`` holds."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - no event announces it
            await asyncio.sleep(0.001)


async def one(at: Switchboard, model: str = "m") -> Upstream:
    async with at.admit(model) as upstream:
        return upstream


@asynccontextmanager
async def waiter(at: Switchboard, model: str = "m") -> AsyncIterator[asyncio.Task[Upstream]]:
    """A request that waits; cancelled at the end if it still does."""
    before = pending(at, model)
    task = asyncio.create_task(one(at, model))
    await until(lambda: pending(at, model) == before + 1)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def pending(at: Switchboard, model: str = "m") -> int:
    traffic = at.traffic.snapshot().get(model)
    return traffic.pending if traffic else 0
