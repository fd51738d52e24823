"""The call that unloads: the validator stands before it."""

from __future__ import annotations

import pytest

from modelium.lifecycle import ModelState
from modelium.policy import PlanRejected
from modelium.stages.unloading import call_unload
from tests.modelium.conftest import World


async def test_a_model_that_serves_is_not_unloaded_whoever_calls(world: World) -> None:
    await world.load()
    record = world.store.model("tiny")
    assert record.deployment is not None

    with pytest.raises(PlanRejected, match="tiny is ready in ray_serve"):
        await call_unload(world.services, record.deployment, grace_s=0.0)

    assert (world.runtime.unloads, await world.request()) == ([], "tiny")
    (event,) = [e for e in world.store.events.newest() if e.kind == "cleanup.refused"]
    assert (event.model, event.detail["rule"]) == ("tiny", "serving")
    assert 'modelium_policy_refusals_total{rule="serving"} 1.0' in world.exposed()


async def test_a_model_whose_unload_has_begun_is_unloaded(world: World) -> None:
    await world.load()
    record = world.store.model("tiny")
    assert record.deployment is not None
    world.store.states.start_unloading("tiny", reason="")
    await call_unload(world.services, record.deployment, grace_s=0.0)
    assert world.runtime.unloads == [("tiny", 0.0)]
    assert world.store.model("tiny").state is ModelState.UNLOADING
