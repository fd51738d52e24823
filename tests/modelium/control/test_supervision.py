"""A background task that ends with an error is begun again, and shows."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from modelium.control.operations import Operations
from modelium.control.supervision import HEALTHY_S, LONGEST_PAUSE_S, PAUSE_S, supervise
from tests.modelium.conftest import World


async def test_a_task_that_fails_is_begun_again_and_its_pauses_grow(world: World) -> None:
    began: list[float] = []
    done = asyncio.Event()

    async def run() -> None:
        began.append(world.clock.monotonic())
        if len(began) == 10:
            done.set()
            await asyncio.Event().wait()
        if len(began) == 9:
            world.clock.advance(HEALTHY_S)
        raise RecursionError("deeper than the stack")

    task = asyncio.create_task(supervise(world.services, "watcher", run))
    await asyncio.wait_for(done.wait(), 60.0)
    task.cancel()
    pauses = [later - earlier for earlier, later in pairwise(began)]
    assert pauses[:7] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, LONGEST_PAUSE_S]
    assert pauses[-1] == HEALTHY_S + 1.0, "it was well for a while"
    assert 'modelium_task_failures_total{task="watcher"} 9.0' in world.exposed()
    (notice,) = Operations(services=world.services).notices()
    assert "watcher" in notice and "deeper than the stack" in notice
    world.clock.advance(HEALTHY_S)
    assert Operations(services=world.services).notices() == []


async def test_a_task_that_has_nothing_left_to_do_ends(world: World) -> None:
    failures = [RecursionError(), None]

    async def run() -> None:
        if failure := failures.pop(0):
            raise failure

    await supervise(world.services, "adoption", run)
    assert failures == []
    assert world.clock.slept == [PAUSE_S]
    assert Operations(services=world.services).notices() == [
        "the adoption task failed and is begun again after a pause: RecursionError"
    ]


async def test_a_task_that_fails_before_it_was_well_waits_longer(world: World) -> None:
    lasted = [HEALTHY_S - 1.0, HEALTHY_S - 1.0]

    async def run() -> None:
        if lasted:
            world.clock.advance(lasted.pop())
            raise KeyError("a bug")

    await supervise(world.services, "loop", run)
    assert world.clock.slept == [PAUSE_S, 2 * PAUSE_S]
