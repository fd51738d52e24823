"""A loaded version serves on until another one can take its place."""

from __future__ import annotations

from typing import Any

import pytest

from modelium.models import Booking, Model
from modelium.stages.replacement import RETRY_S, without
from modelium.stages.snapshot import snapshot
from modelium.stages.switching import conclude
from tests.fakes.fleets import fleet, loaded
from tests.modelium.conftest import World
from tests.modelium.stages.rows import background
from tests.modelium.teams import declare, drop

pytestmark = pytest.mark.slow


async def loop(world: World) -> None:
    """Let the control loop look at the switches."""
    await conclude(world.services, await snapshot(world.services))
    await background(world)


async def served(world: World, **lab: Any) -> None:
    """Have version 1 of team lab loaded, then its quota spent, then version 2 dropped."""
    declare(world)
    await drop(world, "lab/tiny")
    await world.settled("tiny", "ready")
    await background(world)
    declare(world, teams={"lab": lab})
    world.store.team_usage.add({"lab": 60.0})
    await drop(world, "lab/tiny", weight=2.0)
    await background(world)


def deployed(world: World) -> tuple[Model, int]:
    model = world.store.model("tiny")
    assert model.deployment is not None
    return model, model.deployment.version


@pytest.mark.parametrize(
    ("quota", "why"),
    [
        (
            {"gpu_seconds_per_day": 60.0},
            "team lab has used 60 GPU-seconds in 24 h; its gpu_seconds_per_day is 60",
        ),
        ({"memory_quota_gib": 0.0001}, "needs "),
    ],
)
async def test_where_the_quota_has_no_room_the_older_version_serves_on(
    world: World, quota: dict[str, float], why: str
) -> None:
    await served(world, **quota)
    model, version = deployed(world)
    assert (model.state, model.version, version) == ("ready", 2, 1)
    assert world.runtime.unloads == [] and await world.request() == "tiny"
    (made, *_) = world.store.decisions.newest(model="tiny")
    assert made.plan.reason.startswith(f"version 1 serves on, version 2 waits: {why}")
    assert (made.plan.author, made.plan.trigger, made.outcome) == ("rules", "ingest", "done")
    assert world.services.awaiting == {"tiny"}


async def test_once_the_quota_has_room_the_newer_version_takes_over(world: World) -> None:
    await served(world, gpu_seconds_per_day=60.0)
    decided = len(world.store.decisions.newest(model="tiny"))
    analyzed = [stage for stage, _ in world.ran].count("analyze")
    world.clock.advance(RETRY_S + 1.0)
    await loop(world)
    assert [stage for stage, _ in world.ran].count("analyze") == analyzed, "it is still spent"
    assert len(world.store.decisions.newest(model="tiny")) == decided, "and told once"
    declare(world, teams={"lab": {"gpu_seconds_per_day": 61.0}})
    await loop(world)
    assert deployed(world)[1] == 1, "it looks every half minute"
    world.clock.advance(RETRY_S + 1.0)
    await loop(world)
    await world.until("tiny", lambda m: not m.outdated and m.state == "ready")
    await background(world)
    assert deployed(world)[1] == 2
    assert world.services.awaiting == set()


async def test_a_restart_finds_a_version_that_waits(world: World) -> None:
    await served(world, gpu_seconds_per_day=60.0)
    world.services.awaiting.clear()
    await loop(world)
    assert world.services.awaiting == set(), "others are left alone"
    await conclude(world.services, await snapshot(world.services), at_start=True)
    await background(world)
    assert world.services.awaiting == {"tiny"} and deployed(world)[1] == 1


def test_without_a_model_its_memory_is_free() -> None:
    held = (
        Booking(model="a", device="n/g0", bytes=10, resident_bytes=7),
        Booking(model="a", device="n/g1", bytes=10, resident_bytes=2),
        Booking(model="b", device="n/g1", bytes=10, resident_bytes=5),
    )
    before = fleet(loaded("a", "n/g0", "n/g1"), loaded("b", "n/g1"), bookings=held)
    after = without(before, "a")
    assert after.bookings == held[2:]
    freed = [
        new.free_bytes - old.free_bytes
        for new, old in zip(after.devices, before.devices, strict=True)
    ]
    assert freed == [7, 2]
    assert [(m.name, m.state, m.deployment is None) for m in after.models] == [
        ("a", "analyzed", True),
        ("b", "ready", False),
    ]
