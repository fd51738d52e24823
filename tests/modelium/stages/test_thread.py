"""A drop's whole way: ingest → analyze → decide → load → evict, without Prefect."""

import json
import shutil

import pytest

from modelium.errors import FailureKind, InputError, LoadFailed
from modelium.lifecycle import ModelState
from modelium.models import Plan, Trigger, Unload
from modelium.policy import PlanRejected
from modelium.stages.decide import decide
from modelium.stages.evict import evict
from modelium.stages.ingest import ingest
from modelium.stages.load import load
from modelium.stages.monitor import monitor
from tests.modelium.conftest import World
from tests.samples import tiny_onnx


async def drop(world: World, name: str = "tiny", weight: float = 1.0) -> None:
    tiny_onnx(world.incoming / name, weight=weight)
    await ingest(world.services, path=str(world.incoming / name))


async def test_a_drop_ends_up_serving(world: World) -> None:
    await drop(world)
    await world.settled("tiny", "ready")
    record = world.store.model("tiny")
    assert record.path.endswith("repository/tiny")
    assert record.digest.startswith("sha256:")
    assert record.profile is not None and record.profile.format.value == "onnx"
    assert world.services.switchboard.upstream("tiny") is not None
    assert not (world.incoming / "tiny").exists()
    assert not list((world.incoming.parent / "repository" / ".staging").iterdir())
    assert world.store.view()[2], "its memory is booked"


async def test_every_decision_can_be_read_afterwards(world: World) -> None:
    await drop(world)
    await world.settled("tiny", "ready")
    made = world.store.decisions.newest(model="tiny")
    assert [d.outcome for d in made] == ["done"]
    assert made[0].plan.author == "rules"
    assert made[0].plan.actions[0].reason


async def test_the_same_content_again_changes_nothing(world: World) -> None:
    await drop(world)
    await world.settled("tiny", "ready")
    tiny_onnx(world.incoming / "tiny")
    report = await ingest(world.services, path=str(world.incoming / "tiny"))
    assert report.outcome == "unchanged"
    assert world.store.model("tiny").version == 1


async def test_other_content_under_the_name_is_a_new_version(world: World) -> None:
    await drop(world)
    await world.settled("tiny", "ready")
    tiny_onnx(world.incoming / "tiny", weight=2.0)
    report = await ingest(world.services, path=str(world.incoming / "tiny"))
    assert report.outcome == "registered"
    assert world.store.model("tiny").version == 2
    assert world.store.model("tiny").path.endswith("repository/tiny@2")
    assert (world.incoming.parent / "repository" / "tiny" / "model.onnx").exists()


@pytest.mark.parametrize("pinned", [False, True])
async def test_a_new_version_takes_the_place_of_the_loaded_one(world: World, pinned: bool) -> None:
    await drop(world)
    await world.settled("tiny", "ready")
    world.store.set_pinned("tiny", pinned)
    tiny_onnx(world.incoming / "tiny", weight=2.0)
    await ingest(world.services, path=str(world.incoming / "tiny"))
    record = await world.until("tiny", lambda m: not m.outdated and m.state == "ready")
    assert record.deployment is not None and record.deployment.version == 2
    assert [r.path for r in world.runtime.requests][-1].endswith("tiny@2")


async def test_a_new_version_waits_for_requests_on_the_old_one(world: World) -> None:
    await drop(world)
    await world.settled("tiny", "ready")
    async with world.services.switchboard.admit("tiny"):
        tiny_onnx(world.incoming / "tiny", weight=2.0)
        await ingest(world.services, path=str(world.incoming / "tiny"))
        await world.until("tiny", lambda m: m.state == "draining")
        record = await world.until("tiny", lambda m: m.state != "draining")
        assert record.state is ModelState.READY and record.outdated
    await world.until("tiny", lambda m: not m.outdated and m.state == "ready")


async def test_an_unknown_format_is_kept_with_its_reason(world: World) -> None:
    odd = world.incoming / "odd"
    odd.mkdir(parents=True)
    (odd / "notes.txt").write_text("not a model")
    report = await ingest(world.services, path=str(odd))
    assert report.outcome == "rejected"
    kept = world.incoming.parent / "rejected" / "odd"
    assert (kept / "odd" / "notes.txt").read_text() == "not a model"
    reason = json.loads((kept / "reason.json").read_text())
    assert reason["model"] == "odd" and reason["message"]
    assert "odd" not in world.store.names()


async def test_a_folder_outside_the_drop_zone_is_copied(world: World, tmp_path: object) -> None:
    source = world.incoming.parent / "elsewhere" / "tiny"
    tiny_onnx(source)
    await ingest(world.services, path=str(source), team="research")
    await world.settled("tiny", "ready")
    assert (source / "model.onnx").exists()
    assert world.store.model("tiny").team == "research"


async def test_a_failed_load_gives_its_memory_back_and_waits(world: World) -> None:
    world.runtime.failure = LoadFailed("CUDA out of memory", kind=FailureKind.OUT_OF_MEMORY)
    await drop(world)
    await world.settled("tiny", "failed")
    record = world.store.model("tiny")
    assert record.failures == 1 and record.retry_at is not None
    assert "out of memory" in record.reason
    assert not world.store.view()[2]
    assert world.store.decisions.newest(model="tiny")[0].outcome == "failed"


async def test_an_unload_drains_and_frees(world: World) -> None:
    await drop(world)
    await world.settled("tiny", "ready")
    report = await evict(world.services, models=["tiny"])
    assert report.outcome == "unloaded"
    assert world.store.model("tiny").state is ModelState.UNLOADED
    assert not world.store.view()[2] and not world.runtime.held
    again = await evict(world.services, models=["tiny"])
    assert again.outcome == "nothing"


async def test_who_lost_its_place_to_a_better_class_unused_waits_for_the_next(world: World) -> None:
    await drop(world)
    await world.settled("tiny", "ready")
    leave = Unload(model="tiny", requeue=True, reason="makes room for production")
    plan = Plan(
        author="rules",
        trigger=Trigger.SWEEP,
        actions=(leave,),
        reason="room",
        revision=world.store.revision(),
    )
    await decide(world.services, trigger="sweep", plan=plan)
    left = world.store.model("tiny")
    assert left.state is ModelState.QUEUED
    assert left.queued_at is not None
    assert not world.store.view()[2]


async def test_a_busy_model_is_not_unloaded(world: World) -> None:
    await drop(world)
    await world.settled("tiny", "ready")
    async with world.services.switchboard.admit("tiny"):
        report = await evict(world.services, models=["tiny"])
    assert report.outcome == "busy"
    assert world.store.model("tiny").state is ModelState.READY
    assert world.services.switchboard.upstream("tiny") is not None
    assert not world.store.view()[2][0].releasing


async def test_a_pinned_model_is_not_unloaded(world: World) -> None:
    await drop(world)
    await world.settled("tiny", "ready")
    world.store.set_pinned("tiny", True)
    with pytest.raises(PlanRejected, match="pinned"):
        await evict(world.services, models=["tiny"])
    refused = world.store.decisions.newest(model="tiny")[0]
    assert refused.outcome == "refused" and refused.violations


async def test_a_second_load_joins_the_first(world: World) -> None:
    import asyncio

    world.runtime.gate.clear()
    await drop(world)
    await world.settled("tiny", "loading")
    second = asyncio.create_task(load(world.services, model="tiny"))
    await asyncio.sleep(0.3)
    with pytest.raises(InputError, match="being loaded"):
        await evict(world.services, models=["tiny"])
    world.runtime.gate.set()
    assert (await second).outcome == "ready"
    assert world.runtime.loads == 1


async def test_a_cancelled_load_leaves_nothing_booked(world: World) -> None:
    import asyncio

    await drop(world)
    await world.settled("tiny", "ready")
    await evict(world.services, models=["tiny"])
    world.runtime.gate.clear()
    task = asyncio.create_task(load(world.services, model="tiny"))
    await world.settled("tiny", "loading")
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.store.model("tiny").state is ModelState.UNLOADED
    assert not world.store.view()[2]


async def test_a_model_that_its_runtime_lost_is_loaded_again(world: World) -> None:
    await drop(world)
    await world.settled("tiny", "ready")
    world.runtime.held.clear()
    # It may be missing from the list right after it became ready: back-date it.
    with world.store._engine.begin() as tx:
        tx.exec_driver_sql("update models set state_since = state_since - 1000")
    report = await monitor(world.services)
    assert "lost" in report.reason
    await decide(world.services, trigger="sweep")
    await world.settled("tiny", "ready")
    assert world.runtime.loads == 2


async def test_what_no_store_wants_is_cleared_from_the_runtime(world: World) -> None:
    await drop(world)
    await world.settled("tiny", "ready")
    upstream = world.runtime.held["tiny"]
    await evict(world.services, models=["tiny"])
    world.runtime.held["tiny"] = upstream
    await monitor(world.services)
    assert not world.runtime.held


async def test_resident_memory_is_kept_and_measured(world: World) -> None:
    await drop(world)
    await world.settled("tiny", "ready")
    await monitor(world.services)
    _revision, (record,), (booking,) = world.store.view()
    assert booking.resident_bytes == 50_000_000
    assert record.measured[0].per_device_bytes == 50_000_000


async def test_memory_that_was_full_before_the_model_was_ready_is_measured_too(
    world: World,
) -> None:
    await drop(world)
    await world.settled("tiny", "ready")
    (booking,) = world.store.view()[2]
    world.store.history.record_memory({("tiny", booking.device): 50_000_000}, {})
    await monitor(world.services)
    assert world.store.model("tiny").measured[0].per_device_bytes == 50_000_000


async def test_a_model_gone_from_the_repository_fails_with_a_reason(world: World) -> None:
    await drop(world)
    await world.settled("tiny", "ready")
    shutil.rmtree(world.store.model("tiny").path)
    from modelium.errors import ModeliumError
    from modelium.stages.analyze import analyze

    with pytest.raises((ModeliumError, OSError)):
        await analyze(world.services, model="tiny")
