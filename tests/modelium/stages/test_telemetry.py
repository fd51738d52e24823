"""What stages tell the metrics, and what engines tell the planner."""

from __future__ import annotations

import asyncio

import pytest

from modelium.control.loop import Loop
from modelium.errors import FailureKind, LoadFailed, Unavailable
from modelium.models import Report, Traffic
from modelium.policy import PlanRejected
from modelium.policy.eligibility import should_unload
from modelium.ports import EngineStats
from modelium.stages.evict import evict
from modelium.stages.ingest import ingest
from modelium.stages.inline import Stages
from modelium.stages.instrumented import instrumented
from modelium.stages.monitor import monitor
from modelium.stages.services import Services
from modelium.stages.snapshot import HISTORY_HOURS, snapshot, with_history
from modelium.traffic.request_log import LoggedRequest
from tests.modelium.conftest import World
from tests.samples import tiny_onnx


async def loaded(world: World, name: str = "tiny") -> None:
    tiny_onnx(world.incoming / name)
    await ingest(world.services, path=str(world.incoming / name))
    await world.settled(name, "ready")


def text(world: World) -> str:
    return world.services.telemetry.render().decode()  # type: ignore[attr-defined, no-any-return]


async def test_traffic_that_an_engine_alone_sees_keeps_its_model(world: World) -> None:
    await loaded(world)
    world.runtime.counts["tiny"] = EngineStats(completed=1)
    await monitor(world.services)
    with world.store._engine.begin() as tx:
        tx.exec_driver_sql("update models set state_since = state_since - 9000")
        tx.exec_driver_sql(
            "update deployments set document = json_set(document, '$.ready_at', "
            "json_extract(document, '$.ready_at') - 9000)"
        )
        tx.exec_driver_sql("update meta set value = value + 1")
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


async def test_a_direct_request_under_way_counts_as_use(world: World) -> None:
    await loaded(world)
    await monitor(world.services)
    world.runtime.counts["tiny"] = EngineStats(running=1)
    await monitor(world.services)
    tiny = (await snapshot(world.services)).models_by_name["tiny"]
    assert (tiny.traffic.in_flight, tiny.idle_s(tiny.state_since + 9000)) == (1, 0.0)


async def test_a_refused_plan_is_counted_by_rule(world: World) -> None:
    await loaded(world)
    world.store.set_pinned("tiny", True)
    with pytest.raises(PlanRejected):
        await evict(world.services, models=["tiny"])
    assert 'modelium_policy_refusals_total{rule="pinned"} 1.0' in text(world)


async def test_an_eviction_is_counted_by_its_cause(world: World) -> None:
    await loaded(world)
    await evict(world.services, models=["tiny"], reason="spring cleaning")
    assert 'modelium_evictions_total{reason="operator"} 1.0' in text(world)


async def test_loads_are_timed_by_phase(world: World) -> None:
    await loaded(world)
    shown = text(world)
    for phase in ("asked", "starting", "loading-weights"):
        name = "modelium_load_phase_seconds_count"
        assert f'{name}{{phase="{phase}",runtime="ray_serve"}} 1.0' in shown


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "completed"),
        (Unavailable("gone"), "unavailable"),
        (LoadFailed("no", kind=FailureKind.KILLED), "killed"),
        (KeyError("x"), "bug"),
        (asyncio.CancelledError(), "cancelled"),
    ],
)
async def test_each_stage_run_is_counted_by_how_it_ended(
    world: World, error: BaseException | None, outcome: str
) -> None:
    async def play(services: Services, **parameters: object) -> Report:
        if error:
            raise error
        return Report(stage="load", outcome="ready")

    stages: Stages = instrumented({"load": play})
    try:
        await stages["load"](world.services, model="m")
    except BaseException as exc:
        assert exc is error
    assert f'modelium_stage_runs_total{{outcome="{outcome}",stage="load"}} 1.0' in text(world)


async def test_what_was_asked_by_the_hour_is_there_for_who_has_time_to_look(world: World) -> None:
    await loaded(world)
    world.store.history.record_traffic({"tiny": Traffic(completed=7, last_request_at=1.0)})
    fleet = await with_history(world.services, await snapshot(world.services))
    assert fleet.models_by_name["tiny"].traffic.hours == (0,) * (HISTORY_HOURS - 1) + (7,)


async def test_requests_reach_the_log_of_the_store_when_the_loop_keeps_them(world: World) -> None:
    line = LoggedRequest(1.0, "tiny", 3, 4, 0.5)
    world.services.requests.add(line)
    loop = Loop(services=world.services, signals=world.signals)
    await loop.persist()
    await loop.persist()
    assert world.store.history.requests() == [line]
