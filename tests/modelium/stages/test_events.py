"""What stages say happened, in the store and to who listens there."""

from __future__ import annotations

import asyncio

import pytest

from modelium.errors import FailureKind, LoadFailed
from modelium.models import Event, Trigger
from modelium.policy import PlanRejected
from modelium.stages.evict import evict
from modelium.stages.ingest import ingest
from tests.modelium.conftest import World
from tests.samples import tiny_onnx


@pytest.fixture
def heard(world: World) -> list[Event]:
    return world.heard


async def drop(world: World, name: str = "tiny") -> None:
    tiny_onnx(world.incoming / name)
    await ingest(world.services, path=str(world.incoming / name))


async def told(heard: list[Event], kind: str) -> None:
    """Wait until ``kind`` was told: it is a moment after the state changed."""
    async with asyncio.timeout(20):
        while kind not in {event.kind for event in heard}:  # noqa: ASYNC110 - stages run on
            await asyncio.sleep(0.02)


def kinds(events: list[Event]) -> list[tuple[str, str | None]]:
    return [(event.kind, event.model) for event in events]


async def test_a_drop_a_load_and_an_eviction_are_told(world: World, heard: list[Event]) -> None:
    await drop(world)
    await told(heard, "model.ready")
    await evict(world.services, models=["tiny"])
    assert kinds(heard) == [
        ("model.registered", "tiny"),
        ("model.ready", "tiny"),
        ("model.evicted", "tiny"),
    ]
    assert [e.id for e in reversed(world.store.events.newest())] == [e.id for e in heard]


async def test_a_refused_drop_is_told(world: World, heard: list[Event]) -> None:
    odd = world.incoming / "odd"
    odd.mkdir(parents=True)
    (odd / "notes.txt").write_text("not a model")
    await ingest(world.services, path=str(odd))
    assert kinds(heard) == [("drop.rejected", "odd")]


async def test_a_failed_load_is_told(world: World, heard: list[Event]) -> None:
    world.runtime.failure = LoadFailed("no memory", kind=FailureKind.OUT_OF_MEMORY)
    await drop(world)
    await told(heard, "model.failed")
    assert kinds(heard)[-1] == ("model.failed", "tiny")
    assert "no memory" in heard[-1].detail["reason"]


async def test_a_refusal_of_the_policy_is_told_with_its_rule(
    world: World, heard: list[Event]
) -> None:
    await drop(world)
    await told(heard, "model.ready")
    world.store.set_pinned("tiny", True)
    with pytest.raises(PlanRejected):
        await evict(world.services, models=["tiny"])
    refused = heard[-1]
    assert (refused.kind, refused.model) == ("plan.refused", "tiny")
    assert (refused.detail["rule"], refused.detail["author"]) == ("pinned", "operator")
    assert world.store.decisions.get(refused.detail["decision"]).violations


async def test_a_model_that_must_wait_is_told_once(world: World, heard: list[Event]) -> None:
    world.runtime.healthy = False
    await world.services.runtime_monitor.observe({})
    await drop(world)
    await told(heard, "model.queued")
    await world.services.launcher.decide(trigger=Trigger.SWEEP)
    assert kinds(heard) == [("model.registered", "tiny"), ("model.queued", "tiny")]
    assert heard[-1].detail["reason"]
