"""What an earlier run left behind is adopted, settled or taken in again."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelium.control.recovery import recover, take_up
from modelium.errors import Unavailable
from modelium.lifecycle import ModelState
from modelium.models import (
    Deployment,
    Load,
    Plan,
    RuntimeName,
    RuntimeStatus,
    Traffic,
    Trigger,
    Unload,
)
from modelium.stages import runtime_monitor
from modelium.stages.monitor import SETTLE_S, monitor
from modelium.stages.runtime_monitor import RuntimeMonitor
from modelium.stages.sweeps import Sweeps
from modelium.store import Store
from tests.fakes.devices import CPU
from tests.fakes.runtime import MemoryRuntime, routed, upstream
from tests.modelium.conftest import World
from tests.samples import risky_onnx, tiny_onnx

pytestmark = pytest.mark.slow


async def before(world: World) -> None:
    """An earlier run: a model that was taken in, loaded and unloaded."""
    await world.load()
    await world.launcher.evict(models=["tiny"])
    world.runtime.unloads.clear()
    world.ran.clear()


async def test_a_pause_of_idle_evictions_outlives_a_restart(world: World) -> None:
    world.services = replace(world.services, sweeps=Sweeps(scheduled=True))
    world.store.rules.set_idle_pause(1000.0)
    await recover(world.services)
    assert world.services.sweeps.paused_since == 1000.0


def accepted(store: Store, action: Load | Unload) -> None:
    plan = Plan(author="rules", trigger=Trigger.SWEEP, actions=(action,), revision=store.revision())
    store.accept(plan, snapshot_digest="", trace={})


def loading(store: Store) -> None:
    action = Load(
        model="tiny",
        runtime=RuntimeName.RAY_SERVE,
        devices=(CPU.id,),
        reserve={CPU.id: 5},
        reason="asked",
    )
    accepted(store, action)


def ready(store: Store, *, handle: str = "tiny") -> Deployment:
    loading(store)
    deployment = store.model("tiny").deployment
    assert deployment is not None
    found = deployment.model_copy(
        update={"upstream": upstream("tiny"), "handle": {"name": handle}, "ready_at": 0.0}
    )
    store.states.mark_ready("tiny", found)
    return found


def draining(store: Store) -> None:
    ready(store)
    accepted(store, Unload(model="tiny", reason="idle"))


def unloading(store: Store) -> None:
    draining(store)
    store.states.start_unloading("tiny", reason="idle")


@pytest.mark.parametrize(
    ("leave", "reason", "becomes"),
    [
        (loading, "interrupted by a restart while loading", ModelState.QUEUED),
        (draining, "idle", ModelState.UNLOADED),
        (unloading, "idle", ModelState.UNLOADED),
    ],
)
async def test_an_interrupted_move_is_settled(
    world: World, leave: Callable[[Store], None], reason: str, becomes: ModelState
) -> None:
    await before(world)
    leave(world.store)
    world.runtime.held["tiny"] = upstream("tiny")
    world.runtime.states["tiny"] = "loading"
    await recover(world.services)
    await world.settled("tiny", becomes)
    record = world.store.model("tiny")
    assert record.reason == reason
    assert record.deployment is None and not world.store.view()[2]
    assert [model for model, _grace_s in world.runtime.unloads] == ["tiny"]
    assert not world.runtime.held, "nothing of it is left in the runtime"
    assert world.services.switchboard.upstream("tiny") is None


async def test_a_load_that_ended_while_nobody_was_there_is_opened(world: World) -> None:
    await before(world)
    loading(world.store)
    world.runtime.held["tiny"] = upstream("tiny")
    await recover(world.services)
    await world.settled("tiny", "ready")
    assert world.runtime.unloads == [] and world.runtime.loads == 1
    assert await world.request() == "tiny"


@pytest.mark.parametrize("leave", [loading, unloading])
async def test_a_sick_runtime_delays_no_others_models(
    world: World, leave: Callable[[Store], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_monitor, "LATE_S", 0.05)
    await before(world)
    leave(world.store)
    sick = HangingRuntime()
    sick.held["tiny"] = upstream("tiny")
    healthy = await other_runtime(world)
    world.services = replace(
        world.services,
        runtimes={sick.name: sick, healthy.name: healthy},
        runtime_monitor=RuntimeMonitor(
            runtimes={sick.name: sick, healthy.name: healthy}, policy=world.services.policy
        ),
    )
    async with asyncio.timeout(5.0):
        await recover(world.services)
    assert world.services.switchboard.upstream("other") is not None
    assert world.store.model("tiny").state in (ModelState.LOADING, ModelState.UNLOADING)
    (status,) = (s for s in world.services.runtime_monitor.statuses() if s.name is sick.name)
    assert not status.healthy and "no answer" in status.detail
    sick.answers.set()
    await world.converge()
    await world.settled("tiny", "ready", "queued", "unloaded")


class HangingRuntime(MemoryRuntime):
    """Answers nothing until a test sets ``answers``."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = asyncio.Event()

    async def status(self) -> RuntimeStatus:
        await self.answers.wait()
        return await super().status()

    async def unload(self, model: str, *, handle: Mapping[str, Any], grace_s: float) -> None:
        await self.answers.wait()
        await super().unload(model, handle=handle, grace_s=grace_s)


async def other_runtime(world: World) -> MemoryRuntime:
    """Another runtime, with a model that the earlier run has loaded in it."""
    runtime = MemoryRuntime()
    runtime.name = RuntimeName.TRITON
    await world.drop("other", weight=3.0)
    await world.settled("other", "ready")
    record = world.store.model("other")
    assert record.deployment is not None
    world.store.states.mark_moved(record.deployment.model_copy(update={"runtime": runtime.name}))
    world.services.switchboard.close("other")
    runtime.held["other"] = upstream("other")
    return runtime


async def test_a_ready_model_of_a_runtime_that_is_switched_off_is_queued(world: World) -> None:
    await before(world)
    ready(world.store)
    world.services = replace(
        world.services,
        runtimes={},
        runtime_monitor=RuntimeMonitor(runtimes={}, policy=world.services.policy),
    )
    await recover(world.services)
    record = world.store.model("tiny")
    assert record.state is ModelState.QUEUED
    assert "ray_serve is switched off in the configuration" in record.reason


async def test_a_ready_model_is_opened_once_its_runtime_answers(world: World) -> None:
    await before(world)
    ready(world.store)
    world.runtime.held["tiny"] = upstream("tiny")
    world.runtime.healthy = False
    await recover(world.services)
    assert world.store.model("tiny").state is ModelState.READY
    assert world.services.switchboard.upstream("tiny") is None, "nobody knows who has its port"
    world.runtime.healthy = True
    await monitor(world.services)
    assert await world.request() == "tiny"


async def test_an_interrupted_load_counts_as_no_failure(world: World) -> None:
    await before(world)
    loading(world.store)
    await recover(world.services)
    await world.settled("tiny", "queued")
    record = world.store.model("tiny")
    assert (record.failures, record.retry_at) == (0, None)
    assert record.queued_at is not None


async def test_a_ready_model_is_adopted_and_routed(world: World) -> None:
    await before(world)
    ready(world.store, handle="of-before")
    world.runtime.held["tiny"] = upstream("tiny")
    await recover(world.services)
    assert world.runtime.handles == {"tiny": {"name": "of-before"}}
    assert world.services.switchboard.upstream("tiny") == routed("tiny")
    assert world.store.model("tiny").state is ModelState.READY
    assert world.runtime.unloads == []
    assert await world.request() == "tiny"


async def test_a_ready_model_that_moved_is_routed_to_where_it_is(world: World) -> None:
    await before(world)
    ready(world.store)
    world.runtime.held["tiny"] = upstream("tiny", port=10)
    await recover(world.services)
    assert world.services.switchboard.upstream("tiny") == routed("tiny", port=10)


async def test_a_ready_model_that_is_gone_is_queued(world: World) -> None:
    await before(world)
    ready(world.store)
    world.clock.advance(SETTLE_S + 1)
    await recover(world.services)
    assert world.store.model("tiny").state is ModelState.QUEUED
    assert world.services.switchboard.upstream("tiny") is None


async def test_all_registered_models_are_known_to_the_gateway(world: World) -> None:
    await before(world)
    world.services.switchboard.know(())
    await recover(world.services)
    world.runtime.gate.clear()
    admission = world.services.switchboard.admit("tiny", version=2)
    with pytest.raises(Exception, match="version 1 is"):
        await admission.__aenter__()


async def test_traffic_of_before_is_restored(world: World) -> None:
    await before(world)
    world.store.history.record_traffic({"tiny": Traffic(completed=7, last_request_at=1.0)})
    await recover(world.services)
    assert world.services.switchboard.traffic.snapshot()["tiny"].completed == 7


@pytest.mark.unfinished("a version without files")
async def test_a_model_that_was_only_registered_is_analyzed(world: World) -> None:
    await before(world)
    register_anew(world)
    assert world.store.model("tiny").state is ModelState.INGESTED
    await recover(world.services)
    await world.settled("tiny", "ready")
    assert [stage for stage, _parameters in world.ran][:3] == ["analyze", "decide", "load"]


@pytest.mark.unfinished("a version without files")
async def test_a_model_that_was_only_analyzed_is_decided_on(world: World) -> None:
    await before(world)
    register_anew(world)
    world.store.states.mark_analyzed("tiny")
    await recover(world.services)
    await world.settled("tiny", "ready")
    assert [stage for stage, _parameters in world.ran][:2] == ["decide", "load"]
    assert world.ran[0][1]["trigger"] == "ingest"


def register_anew(world: World) -> None:
    """Register another content of the model, as ingest does, and stop there."""
    record = world.store.model("tiny")
    folder = Path(record.path).with_name("tiny@2")
    tiny_onnx(folder, weight=2.0)
    world.store.register(
        "tiny",
        path=folder,
        digest="sha256:2",
        team=None,
        priority=record.priority,
        priority_ceiling=record.priority_ceiling,
        pinned=False,
        profile=record.profile,
    )


async def refused(world: World, file: str, name: str = "tiny") -> None:
    folder = world.incoming / name
    risky_onnx(folder, file)
    assert (await world.launcher.ingest(path=str(folder))).outcome == "rejected"
    world.ran.clear()


async def test_a_refused_drop_that_the_policy_allows_by_now_is_taken_in_again(
    world: World,
) -> None:
    await refused(world, "weights.pkl")
    world.rule(allow_pickle=True)
    await recover(world.services)
    await world.settled("tiny", "analyzed", "loading", "ready", "failed")
    assert world.store.model("tiny").approvals == {"pickle"}
    assert not (world.rejected / "tiny").exists()


@pytest.mark.parametrize(
    ("file", "allowed"),
    [
        ("weights.pkl", {}),
        ("weights.pkl", {"allow_remote_code": True}),
        ("modeling_tiny.py", {}),
        ("modeling_tiny.py", {"allow_pickle": True}),
    ],
)
async def test_a_refused_drop_that_is_still_forbidden_stays(
    world: World, file: str, allowed: dict[str, bool]
) -> None:
    await refused(world, file)
    world.rule(**allowed)
    await recover(world.services)
    await world.idle()
    assert world.ran == []
    assert (world.rejected / "tiny" / "reason.json").exists()


async def test_a_drop_that_no_policy_can_allow_stays(world: World) -> None:
    (world.incoming / "odd").mkdir()
    (world.incoming / "odd" / "notes.txt").write_text("not a model")
    await world.launcher.ingest(path=str(world.incoming / "odd"))
    world.ran.clear()
    world.rule(allow_pickle=True, allow_remote_code=True)
    await recover(world.services)
    await world.idle()
    assert world.ran == []
    assert (world.rejected / "odd" / "reason.json").exists()


async def test_a_drop_that_was_left_in_staging_returns_to_the_drop_zone(world: World) -> None:
    tiny_onnx(world.incoming / "tiny")
    world.services.repository.stage(world.incoming / "tiny", name=None)
    assert not (world.incoming / "tiny").exists()
    await recover(world.services)
    assert (world.incoming / "tiny" / "model.onnx").exists()


async def test_a_runtime_that_is_away_does_not_stop_the_start(world: World) -> None:
    await before(world)
    unloading(world.store)
    world.runtime.held["tiny"] = upstream("tiny")
    world.runtime.unload_failure = Unavailable("no answer")
    await recover(world.services)
    assert world.store.model("tiny").state is ModelState.UNLOADING, "its memory stays booked"
    world.runtime.unload_failure = None
    await world.attempts()
    await world.converge()
    await world.settled("tiny", "unloaded")
    assert not world.runtime.held


async def test_a_disk_that_refuses_to_tidy_up_does_not_stop_the_start(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await before(world)
    drop = world.incoming / "left"
    tiny_onnx(drop)
    world.services.repository.stage(drop, name=None)

    def refused(*_args: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "rename", refused)
    monkeypatch.setattr(os, "listdir", refused)
    monkeypatch.setattr(shutil, "copytree", refused)
    await recover(world.services)
    monkeypatch.undo()
    assert (world.services.repository.recover()) == [drop]


async def test_a_drop_that_is_taken_in_during_the_start_keeps_its_staging(
    world: World, tmp_path: Path
) -> None:
    left = await take_up(world.services)
    source = tmp_path / "elsewhere" / "new"
    tiny_onnx(source)
    staged = world.services.repository.stage(source, name=None)
    await recover(world.services, left)
    assert (staged.folder / "model.onnx").exists()
    world.services.repository.discard(staged)


async def test_what_an_ingest_left_is_cleared_away_before_drops_are_taken_in(
    world: World,
) -> None:
    drop = world.incoming / "left"
    tiny_onnx(drop)
    world.services.repository.stage(drop, name=None)
    await take_up(world.services)
    assert drop.exists()
    assert not list(world.services.repository.staging.iterdir())
