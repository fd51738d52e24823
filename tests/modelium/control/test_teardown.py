"""`modelium down` ends what the runtimes hold, and the store says so."""

import pytest

from modelium.control import teardown
from modelium.errors import Unavailable
from tests.modelium.conftest import World


async def ended(world: World, node: str = "here") -> list[str]:
    runtimes = world.services.runtimes.values()
    return await teardown.end(store=world.services.store, runtimes=runtimes, node=node, grace_s=0.0)


async def test_loaded_models_are_unloaded_and_their_memory_is_given_back(world: World) -> None:
    await world.load()
    assert await ended(world) == ["tiny"]
    record = world.store.model("tiny")
    assert (record.state.value, record.deployment) == ("unloaded", None)
    assert "modelium down" in record.reason
    assert not world.store.view()[2], "no booking stays"
    assert not world.runtime.held
    assert await ended(world) == []


async def test_a_load_in_progress_is_recorded_as_ended(world: World) -> None:
    world.runtime.gate.clear()
    await world.drop()
    await world.settled("tiny", "loading")
    assert await ended(world) == ["tiny"]
    assert world.store.model("tiny").state.value == "unloaded"


async def test_models_of_other_nodes_stay_loaded(world: World) -> None:
    await world.load()
    assert await ended(world, node="elsewhere") == []
    assert world.store.model("tiny").state.value == "ready"


async def test_models_of_a_runtime_that_is_configured_off_stay_recorded(world: World) -> None:
    await world.load()
    made = await teardown.end(store=world.services.store, runtimes=(), node="here", grace_s=0.0)
    assert made == []
    assert world.store.model("tiny").state.value == "ready"


async def test_nothing_is_recorded_where_a_runtime_cannot_be_ended(world: World) -> None:
    await world.load()
    world.runtime.end_failure = Unavailable("it does not answer")
    with pytest.raises(Unavailable):
        await ended(world)
    assert world.store.model("tiny").state.value == "ready"
