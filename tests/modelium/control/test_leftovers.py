"""What an ingest leaves that ended early returns to the drop zone, without a restart."""

from __future__ import annotations

import asyncio

from modelium.control.leftovers import Leftovers
from tests.modelium.conftest import World
from tests.samples import tiny_onnx


def left(world: World) -> None:
    """Leave a drop in staging, as an ingest does that cannot give it back either."""
    tiny_onnx(world.incoming / "tiny")
    world.services.repository.stage(world.incoming / "tiny", name=None)
    assert not (world.incoming / "tiny").exists()


async def test_a_drop_that_a_full_disk_left_in_staging_comes_back(world: World) -> None:
    left(world)
    await Leftovers(services=world.services).look()
    assert (world.incoming / "tiny" / "model.onnx").is_file()
    assert list(world.services.repository.staging.iterdir()) == []


async def test_what_is_being_taken_in_is_no_leftover(world: World) -> None:
    left(world)
    async with world.services.turns.of("other"):
        await Leftovers(services=world.services).look()
    assert not (world.incoming / "tiny").exists()


async def test_nothing_is_taken_in_while_leftovers_are_looked_at(world: World) -> None:
    entered = asyncio.Event()

    async def take_in() -> None:
        async with world.services.turns.of("other"):
            entered.set()

    async with world.services.turns.alone() as alone:
        taking = asyncio.create_task(take_in())
        await world.idle()
        assert alone and not entered.is_set()
        async with world.services.turns.alone() as second:
            assert not second
    await taking
