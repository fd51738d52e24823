"""Failed attempts are recorded with what they were made with, and forgotten when that changes."""

from __future__ import annotations

import pytest

from modelium.config import Config
from modelium.errors import LoadFailed
from modelium.lifecycle import ModelState
from modelium.stages.failures import (
    configuration_of,
    forgive,
    forgive_reconfigured,
    record_failure,
)
from tests.modelium.conftest import World
from tests.modelium.stages.rows import booked, configured, events, registered

pytestmark = pytest.mark.unfinished("models without files")


async def failed(world: World, name: str = "tiny", *, times: int = 1) -> None:
    if world.store.find(name) is None:
        registered(world, name)
    for _ in range(times):
        booked(world, name)
        await record_failure(world.services, world.store.model(name), LoadFailed("bad magic"))


def test_a_configuration_is_that_of_the_model_and_of_every_runtime() -> None:
    def found(name: str = "m", **sections: object) -> str:
        return configuration_of(Config.model_validate(sections), name)

    plain = found()
    assert (len(plain), found("other"), found("m@2")) == (16, plain, plain)
    others = [
        found(models={"m": {"pinned": True}}),
        found(models={"m": {}}),
        found(vllm={"enabled": True}),
        found(triton={"enabled": True}),
        found(ray_serve={"enabled": True}),
        found(llama_cpp={"enabled": True}),
    ]
    assert len({plain, *others}) == 7
    assert found("m@2", models={"m": {"pinned": True}}) == others[0]
    assert found("other", models={"m": {"pinned": True}}) == plain


async def test_a_failure_gives_everything_back_and_says_when_it_is_tried_again(
    world: World,
) -> None:
    registered(world)
    booked(world)
    found = await record_failure(world.services, world.store.model("tiny"), LoadFailed("bad magic"))
    record = world.store.model("tiny")
    assert (record.state, record.reason) == (ModelState.FAILED, "bad magic")
    assert (
        (record.failures, record.retry_at)
        == (found.failures, found.retry_at)
        == (
            1,
            pytest.approx(world.clock.time() + 10.0, abs=0.1),
        )
    )
    assert record.setbacks == found.setbacks
    assert found.setbacks.configuration == configuration_of(world.services.config, "tiny")
    assert record.deployment is None and world.store.view()[2] == ()
    assert events(world, "model.quarantined") == []


async def test_a_quarantine_is_told_once_it_begins(world: World) -> None:
    await failed(world, times=4)
    assert events(world, "model.quarantined") == []
    await failed(world)
    ((name, detail),) = events(world, "model.quarantined")
    assert (name, detail["failures"]) == ("tiny", 5)
    assert detail["reason"] == world.store.model("tiny").reason


async def test_what_nothing_was_tried_of_cannot_have_failed(world: World) -> None:
    with pytest.raises(ValueError, match="tiny has no deployment that could have failed"):
        await record_failure(world.services, registered(world), LoadFailed("bad magic"))


async def test_what_has_not_failed_is_not_forgiven(world: World) -> None:
    registered(world)
    before = world.store.revision()
    assert await forgive(world.services, "tiny", why="asked") == world.store.model("tiny")
    assert (world.store.revision(), world.heard) == (before, [])


async def test_what_is_forgiven_is_tried_again_and_told_of(world: World) -> None:
    await failed(world, times=2)
    fresh = await forgive(world.services, "tiny", why="asked")
    assert (fresh.failures, fresh) == (0, world.store.model("tiny"))
    assert events(world, "model.retry") == [("tiny", {"reason": "asked", "failures": 2})]


async def test_models_whose_configuration_changed_are_tried_again(world: World) -> None:
    await failed(world, "a")
    registered(world, "fine")
    assert await forgive_reconfigured(world.services) == []
    configured(world, "vllm", enabled=True)
    await failed(world, "new")
    assert await forgive_reconfigured(world.services) == ["a"]
    assert {m.name: m.failures for m in world.store.view()[1]} == {"a": 0, "fine": 0, "new": 1}
    why = "its configuration has changed"
    assert events(world, "model.retry") == [("a", {"reason": why, "failures": 1})]
