"""What is restored from the trash is still its team's."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from modelium.control.operations import Operations
from modelium.errors import InputError
from tests.modelium.conftest import World
from tests.modelium.teams import declare, drop

pytestmark = pytest.mark.slow


@pytest.fixture
async def operations(world: World) -> AsyncIterator[Operations]:
    declare(world)
    opened = Operations(services=world.services)
    yield opened
    await opened.aclose()


async def removed(world: World, operations: Operations) -> None:
    """Drop a model of team lab, and remove it."""
    await drop(world, "lab/tiny")
    await world.settled("tiny", "ready")
    asked = operations.versions.remove("tiny", by="me", purge=False, force=False)
    assert (await world.ended(await asked)).state == "done"


async def test_a_restored_model_is_its_teams(world: World, operations: Operations) -> None:
    await removed(world, operations)
    (entry,) = await operations.versions.trash()
    assert entry.team == "lab"
    (version,) = await operations.versions.of("tiny")
    assert version.team == "lab"
    with pytest.raises(InputError, match="the trash holds no 'tiny' of team prod; `modelium trash"):
        await operations.versions.restore("tiny", team="prod")
    restored = await world.ended(await operations.versions.restore("tiny", team="lab"))
    assert restored.state == "done"
    assert world.store.model("tiny").team == "lab"


async def test_a_restored_model_does_not_replace_that_of_another_team(
    world: World, operations: Operations
) -> None:
    await removed(world, operations)
    await drop(world, "prod/tiny", weight=2.0)
    (entry,) = await operations.versions.trash()
    intent = await world.ended(await operations.versions.restore("tiny"))
    assert intent.state == "failed"
    assert intent.detail.startswith("tiny belongs to team prod, and team lab cannot replace it")
    assert world.store.model("tiny").team == "prod"
    assert await operations.versions.trash() == [entry], "it stays in the trash"
