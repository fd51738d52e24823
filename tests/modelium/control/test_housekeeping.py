"""What the control loop does beside planning, and how often."""

from __future__ import annotations

import asyncio

import pytest

from modelium.control.loop import PERSIST_S, PRUNE_S, SETTLE_S, Loop
from modelium.errors import UnknownModel
from modelium.models import Intent, Trigger
from modelium.stages.evict import evict
from modelium.traffic.request_log import LoggedRequest
from tests.fakes.clock import START
from tests.modelium.conftest import World
from tests.modelium.control.test_loop import loop_of

OLD = LoggedRequest(-1e9, "tiny", 3, 4, 0.5)


class House:
    """What is to be kept, and a loop that has just begun."""

    def __init__(self, world: World) -> None:
        self.store = world.store
        self.loop: Loop = loop_of(world)
        self.began = world.clock.monotonic()
        self.store.intents.save(Intent(id="i", at=1.0, kind="load"))
        world.services.requests.add(LoggedRequest(START, "tiny", 3, 4, 0.5))
        self.store.history.log([OLD])

    async def keep(self, after_s: float) -> set[str]:
        """Return what was done ``after_s`` after the loop began."""
        await self.loop._housekeep(self.began + after_s)
        logged = self.store.history.requests(since=-2e9)
        done = {
            "settled": self.store.intents.get("i").state == "failed",
            "persisted": any(line.at > 0 for line in logged),
            "pruned": OLD not in logged,
        }
        return {what for what, so in done.items() if so}


@pytest.mark.parametrize(
    ("looks", "done"),
    [
        ((SETTLE_S - 0.5,) * 2, set()),
        ((SETTLE_S, SETTLE_S + 1), set()),
        ((SETTLE_S, 2 * SETTLE_S), {"settled"}),
        ((PERSIST_S - 0.5,), set()),
        ((PERSIST_S,), {"persisted"}),
        ((PRUNE_S - 0.5,), {"persisted"}),
        ((PRUNE_S,), {"persisted", "pruned"}),
    ],
)
async def test_each_task_is_due_after_its_own_interval(
    world: World, looks: tuple[float, ...], done: set[str]
) -> None:
    house = House(world)
    for after_s in looks:
        seen = await house.keep(after_s)
    assert seen == done


async def test_a_task_is_due_again_after_another_interval(world: World) -> None:
    house = House(world)
    await house.keep(PRUNE_S)
    house.store.history.log([OLD])
    assert "pruned" not in await house.keep(2 * PRUNE_S - 0.5)
    assert "pruned" in await house.keep(2 * PRUNE_S)


async def test_a_tick_learns_what_another_process_registered_and_goes_on_with_removals(
    world: World,
) -> None:
    await world.load()
    await evict(world.services, models=["tiny"])
    world.services.switchboard.know([])
    with pytest.raises(UnknownModel):
        await world.request()
    await loop_of(world).tick()
    waiting = asyncio.create_task(world.request())
    await world.idle()
    assert not waiting.done(), "it is known"
    waiting.cancel()
    world.store.lineage.begin_removal("tiny", by="x", purge=False)
    await loop_of(world).tick()
    assert (await world.event("model.removed")).model == "tiny"


async def test_no_review_is_made_without_an_llm(world: World) -> None:
    loop = loop_of(world)
    world.clock.advance(world.services.config.brain.review_interval_seconds + 1)
    await loop.tick()
    await world.idle()
    assert [given for stage, given in world.ran if stage == "decide"] == []
    assert {d.plan.trigger for d in world.store.decisions.newest()} <= {Trigger.SWEEP}


async def test_lost_lines_are_told_when_there_are_some(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.services.requests.dropped = 5
    for _ in range(2):
        await loop_of(world).persist()
    assert caplog.text.count("lines of the request log were lost") == 1
    assert "5 lines of the request log were lost: its buffer was full" in caplog.text
