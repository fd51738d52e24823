"""The store is made to agree with what the runtimes run, and what engines count is taken in."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from modelium.control.recovery import recover
from modelium.errors import Unavailable
from modelium.lifecycle import ModelState
from modelium.models import RuntimeName, Trigger
from modelium.policy import RuntimeRules
from modelium.policy.eligibility import should_unload
from modelium.ports import EngineStats
from modelium.stages.evict import evict
from modelium.stages.failing import FAILING
from modelium.stages.monitor import SETTLE_S, monitor
from modelium.stages.runtime_monitor import RuntimeMonitor
from modelium.stages.snapshot import snapshot
from tests.fakes.runtime import routed, upstream
from tests.modelium.conftest import World

pytestmark = pytest.mark.slow


async def test_a_model_that_its_runtime_lost_is_loaded_again(world: World) -> None:
    await world.load()
    world.runtime.held.clear()
    world.clock.advance(world.services.policy.healthy_after_s)
    report = await monitor(world.services)
    assert "lost" in report.reason
    await world.launcher.decide(trigger=Trigger.SWEEP)
    await world.settled("tiny", "ready")
    assert world.runtime.loads == 2


async def test_an_engine_that_dies_after_each_load_is_quarantined(world: World) -> None:
    """Nobody asks for it: the sweep tries it again, after ever longer pauses, and then stops."""
    await world.load()
    waits = []
    for attempt in range(1, world.services.policy.quarantine_after + 1):
        assert world.runtime.loads == attempt
        world.clock.advance(SETTLE_S + 1)
        world.runtime.held.clear()
        await monitor(world.services)
        record = world.store.model("tiny")
        assert (record.state, record.failures) == (ModelState.FAILED, attempt)
        if record.retry_at is None:
            break
        waits.append(round(record.retry_at - world.clock.time()))
        await world.launcher.decide(trigger=Trigger.UPKEEP)
        assert world.store.model("tiny").state is ModelState.FAILED, "not before its pause is over"
        world.clock.advance(waits[-1] + 1)
        await world.launcher.decide(trigger=Trigger.UPKEEP)
        await world.settled("tiny", "ready")
    assert waits == [10, 20, 40, 80]
    assert world.store.model("tiny").quarantined
    assert "lost 31 s after it was ready" in world.store.model("tiny").reason
    world.clock.advance(86400)
    await world.launcher.decide(trigger=Trigger.SWEEP)
    assert world.runtime.loads == 5
    assert 'modelium_model_quarantined{model="tiny"} 1.0' in await exposed(world)


async def exposed(world: World) -> str:
    await monitor(world.services)
    return world.exposed()


async def test_of_models_that_a_shared_server_took_with_it_the_newest_counts(world: World) -> None:
    services = world.services
    await world.load("other")
    world.clock.advance(1)
    await world.load()
    for name in ("other", "tiny"):  # as if Triton served both
        held = world.store.model(name).deployment
        assert held is not None
        world.store.states.mark_moved(held.model_copy(update={"runtime": RuntimeName.TRITON}))
    world.runtime.name = RuntimeName.TRITON
    runtimes = {RuntimeName.TRITON: world.runtime}
    policy = services.policy
    policy = policy.model_copy(update={"runtimes": {RuntimeName.TRITON: RuntimeRules()}})
    watch = RuntimeMonitor(runtimes=runtimes, policy=policy)
    world.services = replace(services, runtimes=runtimes, runtime_monitor=watch, policy=policy)
    world.clock.advance(SETTLE_S + 1)
    world.runtime.held.clear()
    await monitor(world.services)
    assert world.store.model("tiny").state is ModelState.FAILED
    other = world.store.model("other")
    assert (other.state, other.failures) == (ModelState.QUEUED, 0)


async def test_a_lost_model_is_queued_and_closed_at_once(world: World) -> None:
    await world.load()
    world.runtime.held.clear()
    world.clock.advance(world.services.policy.healthy_after_s)
    report = await monitor(world.services)
    assert report.outcome == "changed"
    assert world.services.switchboard.upstream("tiny") is None
    record = world.store.model("tiny")
    assert record.state is ModelState.QUEUED and record.failures == 0
    assert "to be loaded again" in record.reason
    assert not world.store.view()[2]
    assert world.kinds()[-1] == ("model.lost", "tiny")
    assert 'modelium_model_restarts_total{model="tiny"} 1.0' in world.exposed()


async def test_what_ended_while_the_service_was_down_is_no_failure(world: World) -> None:
    await world.load()
    world.runtime.held.clear()
    world.clock.advance(SETTLE_S + 1)
    world.services.began = world.clock.time()
    await monitor(world.services)
    record = world.store.model("tiny")
    assert (record.state, record.failures) == (ModelState.QUEUED, 0)


async def test_a_runtimes_list_may_lag_behind_a_load(world: World) -> None:
    await world.load()
    world.runtime.held.clear()
    world.clock.advance(SETTLE_S - 1)
    assert (await monitor(world.services)).outcome == "steady"
    assert world.store.model("tiny").state is ModelState.READY
    assert world.services.switchboard.upstream("tiny") is not None


async def test_a_missing_model_that_does_not_answer_is_lost_at_once(world: World) -> None:
    await world.load()
    world.runtime.held.clear()
    world.services.switchboard.suspect("tiny")
    assert (await monitor(world.services)).outcome == "changed"
    assert world.store.model("tiny").state is ModelState.FAILED


async def test_an_unhealthy_model_is_unloaded_queued_and_closed(world: World) -> None:
    await world.load()
    world.clock.advance(world.services.policy.healthy_after_s)
    world.runtime.states["tiny"] = "unhealthy"
    report = await monitor(world.services)
    assert report.reason == "tiny lost (unhealthy)"
    assert world.runtime.unloads == [("tiny", 0.0)], "what is left of it is cleared"
    assert world.store.model("tiny").state is ModelState.QUEUED
    assert world.services.switchboard.upstream("tiny") is None


async def test_a_lost_model_is_queued_even_if_its_rest_cannot_be_cleared(world: World) -> None:
    await world.load()
    world.clock.advance(world.services.policy.healthy_after_s)
    world.runtime.states["tiny"] = "unhealthy"
    world.runtime.unload_failure = Unavailable("no answer")
    await monitor(world.services)
    assert world.store.model("tiny").state is ModelState.QUEUED


async def test_a_runtime_that_is_down_loses_no_model(world: World) -> None:
    await world.load()
    world.runtime.held.clear()
    world.runtime.healthy = False
    world.clock.advance(SETTLE_S)
    report = await monitor(world.services)
    assert report.outcome == "steady"
    assert report.details["runtimes"] == {"ray_serve": "down"}
    assert world.store.model("tiny").state is ModelState.READY


async def test_a_moved_upstream_is_followed(world: World) -> None:
    record = await world.load()
    world.runtime.held["tiny"] = upstream("tiny", port=10)
    assert (await monitor(world.services)).outcome == "steady"
    assert world.services.switchboard.upstream("tiny") == routed("tiny", port=10)
    moved = world.store.model("tiny")
    assert moved.state is ModelState.READY
    assert moved.deployment is not None and record.deployment is not None
    assert moved.deployment.upstream == upstream("tiny", port=10)
    assert moved.deployment.handle == record.deployment.handle


async def test_runtimes_are_asked_with_the_handles_of_the_store(world: World) -> None:
    await world.load()
    await monitor(world.services)
    assert world.runtime.handles == {"tiny": {"name": "tiny"}}


async def test_a_model_that_the_store_does_not_want_is_unloaded(world: World) -> None:
    await world.load()
    await evict(world.services, models=["tiny"])
    world.runtime.held["tiny"] = upstream("tiny")
    report = await monitor(world.services)
    assert report.reason == "tiny cleared from ray_serve"
    assert not world.runtime.held


async def test_a_model_that_the_store_does_not_know_is_left_alone(world: World) -> None:
    world.runtime.held["stranger"] = upstream("stranger")
    assert (await monitor(world.services)).outcome == "steady"
    assert "stranger" in world.runtime.held


async def test_an_own_engine_of_a_model_that_the_store_does_not_know_is_stopped(
    world: World,
) -> None:
    """It was loaded after the backup that the store was restored from."""
    for name in ("newcomer", "newcomer@2", "stranger"):
        world.runtime.held[name] = upstream(name)
    world.runtime.shown |= {"newcomer": {"own": True}, "newcomer@2": {"own": True}}
    await recover(world.services)
    assert list(world.runtime.held) == ["stranger"]


async def test_a_model_that_is_placed_meanwhile_is_not_unloaded(world: World) -> None:
    await world.load()
    await evict(world.services, models=["tiny"])
    world.runtime.held["tiny"] = upstream("tiny")
    world.runtime.unloads.clear()
    world.runtime.gate.clear()
    services = world.services

    class PlacesMeanwhile(type(services.runtime_monitor)):  # type: ignore[misc]
        """Observes the runtimes while another run has the model placed."""

        async def observe(self, handles: object) -> object:
            found = await services.runtime_monitor.observe(handles)  # type: ignore[arg-type]
            await world.launcher.decide(model="tiny", trigger=Trigger.OPERATOR, carry_out=False)
            return found

    runtime_monitor = PlacesMeanwhile(runtimes=services.runtimes, policy=services.policy)
    report = await monitor(replace(services, runtime_monitor=runtime_monitor))
    assert report.reason == "tiny is being loaded"
    assert world.runtime.unloads == []
    assert world.store.model("tiny").state is ModelState.LOADING


@pytest.mark.parametrize("disabled", ["orchestration", "runtime"])
async def test_nothing_is_unloaded_where_orchestration_or_the_runtime_is_disabled(
    world: World, disabled: str
) -> None:
    await world.load()
    await evict(world.services, models=["tiny"])
    world.runtime.held["tiny"] = upstream("tiny")
    world.runtime.unloads.clear()
    if disabled == "orchestration":
        world.rule(enabled=False)
    else:
        world.rule(runtimes={})
    assert (await monitor(world.services)).outcome == "steady"
    assert world.runtime.unloads == []
    assert "tiny" in world.runtime.held


async def test_traffic_that_only_the_engine_sees_keeps_its_model(world: World) -> None:
    await world.load()
    world.runtime.counts["tiny"] = EngineStats(completed=1)
    await monitor(world.services)
    world.clock.advance(9000)
    world.runtime.counts["tiny"] = EngineStats(completed=1)
    await monitor(world.services)
    fleet = await snapshot(world.services)
    policy = world.services.policy
    assert should_unload(fleet.models_by_name["tiny"], policy, now=fleet.at)
    world.runtime.counts["tiny"] = EngineStats(completed=2)
    await monitor(world.services)
    fleet = await snapshot(world.services)
    tiny = fleet.models_by_name["tiny"]
    assert tiny.idle_s(fleet.at) < 5
    assert not should_unload(tiny, policy, now=fleet.at)


async def test_a_direct_request_in_flight_counts_as_use(world: World) -> None:
    await world.load()
    await monitor(world.services)
    world.runtime.counts["tiny"] = EngineStats(running=1)
    await monitor(world.services)
    tiny = (await snapshot(world.services)).models_by_name["tiny"]
    assert (tiny.traffic.in_flight, tiny.idle_s(tiny.state_since + 9000)) == (1, 0.0)


async def test_a_ready_model_that_was_left_closed_is_opened(world: World) -> None:
    await world.load()
    world.services.switchboard.close("tiny")
    await monitor(world.services)
    assert await world.request() == "tiny"


async def test_a_ready_model_that_a_task_is_at_stays_closed(world: World) -> None:
    await world.load()
    world.services.switchboard.close("tiny")
    with world.services.owners.of("tiny"):
        await monitor(world.services)
        assert world.services.switchboard.upstream("tiny") is None


async def test_a_runtime_that_does_not_clear_one_model_hinders_no_other(world: World) -> None:
    await world.load("good")
    world.store.states.requeue("good", reason="not wanted")
    await world.load("tiny")
    world.runtime.unload_failures["good"] = OSError(24, "Too many open files")
    world.runtime.states["tiny"] = "unhealthy"
    await monitor(world.services)
    assert world.store.model("tiny").state is ModelState.FAILED, "it was lost soon after its load"


async def answered(world: World, *, failed: bool, times: int = 1) -> None:
    upstream = world.services.switchboard.upstream("tiny")
    assert upstream is not None
    for _ in range(times):
        world.services.switchboard.judge("tiny", upstream, failed=failed)


async def test_a_model_that_fails_every_request_and_ours_is_loaded_again(world: World) -> None:
    await world.load()
    world.runtime.ills["tiny"] = "/v1/completions answers 500"
    await answered(world, failed=True, times=FAILING - 1)
    assert (await monitor(world.services)).outcome == "steady", "some failures are a client's"
    await answered(world, failed=True)
    assert (await monitor(world.services)).outcome == "changed"
    assert "and so did a request of Modelium's own" in world.store.model("tiny").reason


async def test_one_good_answer_among_failed_ones_is_enough(world: World) -> None:
    await world.load()
    world.runtime.ills["tiny"] = "/v1/completions answers 500"
    await answered(world, failed=True, times=FAILING)
    await answered(world, failed=False)
    assert (await monitor(world.services)).outcome == "steady"


async def test_a_model_that_answers_our_request_stays_whatever_its_clients_send(
    world: World,
) -> None:
    await world.load()
    await answered(world, failed=True, times=FAILING)
    assert (await monitor(world.services)).outcome == "steady"
    assert world.services.switchboard.failing("tiny") == 0


async def test_requests_for_an_unreachable_model_are_held_while_its_runtime_is_down(
    world: World,
) -> None:
    await world.load()
    world.services.switchboard.suspect("tiny")
    world.runtime.healthy = False
    await monitor(world.services)
    held = asyncio.create_task(world.request())
    await world.idle()
    assert not held.done(), "a reborn runtime would say that it knows no such model"
    assert world.store.model("tiny").state is ModelState.READY
    world.runtime.healthy = True
    await monitor(world.services)
    assert await held == "tiny"
