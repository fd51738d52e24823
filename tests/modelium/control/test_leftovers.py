"""What an ingest leaves that ended early returns to the drop zone, without a restart."""

from __future__ import annotations

import asyncio

import pytest

from modelium.control.leftovers import LOOK_S, Leftovers
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


async def test_it_is_looked_at_again_and_again(world: World) -> None:
    world.clock.hurried = False
    task = asyncio.create_task(Leftovers(services=world.services).run())
    for _ in range(2):
        await world.clock.asleep()
        left(world)
        world.clock.advance(LOOK_S)
        await world.clock.asleep()
        assert (world.incoming / "tiny" / "model.onnx").is_file()
        (world.incoming / "tiny" / "model.onnx").unlink()
        (world.incoming / "tiny").rmdir()
    assert set(world.clock.slept) == {LOOK_S}
    assert not task.done()
    task.cancel()


async def test_what_cannot_be_cleared_away_is_told_once_until_it_can(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    leftovers, staging = Leftovers(services=world.services), world.services.repository.staging
    for times in (1, 2):
        staging.rmdir()
        staging.write_text("no folder")
        for _ in range(2):
            await leftovers.look()
            assert caplog.text.count("what ingests have left cannot be cleared away") == times
        staging.unlink()
        staging.mkdir()
        left(world)
        await leftovers.look()
        assert (world.incoming / "tiny").exists()
        (world.incoming / "tiny" / "model.onnx").unlink()
        (world.incoming / "tiny").rmdir()
