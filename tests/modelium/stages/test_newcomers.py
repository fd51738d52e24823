"""A registered model that nobody takes further is analyzed and decided on, without a restart."""

from __future__ import annotations

import pytest

from modelium import analysis
from modelium.models import Priority
from modelium.stages.newcomers import resume
from modelium.stages.owners import GRACE_S, RETRY_S
from modelium.stages.registration import check
from tests.modelium.conftest import World
from tests.samples import tiny_onnx


async def left(world: World, state: str) -> None:
    """A model in ``state``, as a task leaves it that ends before it starts the next one."""
    folder = world.services.repository.published / "tiny"
    tiny_onnx(folder)
    digest = analysis.digest(folder)
    world.store.register(
        "tiny",
        path=folder,
        digest=digest,
        team=None,
        priority=Priority.LOW,
        priority_ceiling=Priority.HIGH,
        pinned=False,
        profile=await check(world.services, "tiny", folder, digest),
    )
    if state == "analyzed":
        world.store.states.mark_analyzed("tiny")
    assert world.store.model("tiny").state == state


@pytest.mark.parametrize("state", ["ingested", "analyzed"])
async def test_it_is_taken_further(world: World, state: str) -> None:
    await left(world, state)
    world.ran.clear()
    for pause in (0.0, GRACE_S - 1.0):
        world.clock.advance(pause)
        resume(world.services, world.store.view()[1])
    await world.idle()
    assert world.ran == [], "its next task may be about to begin"
    world.clock.advance(1.0)
    resume(world.services, world.store.view()[1])
    await world.settled("tiny", "ready")
    world.clock.advance(RETRY_S)
    world.ran.clear()
    resume(world.services, world.store.view()[1])
    await world.idle()
    assert world.ran == []


async def test_one_that_orchestration_is_off_for_is_not_decided_on(world: World) -> None:
    await left(world, "analyzed")
    world.services.policy = world.services.policy.model_copy(update={"enabled": False})
    for _ in range(2):
        world.clock.advance(GRACE_S)
        resume(world.services, world.store.view()[1])
    await world.idle()
    assert world.ran == []
