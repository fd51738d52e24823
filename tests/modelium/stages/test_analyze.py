"""A registered model gets its profile, and a new version replaces the loaded one."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pytest

from modelium.errors import DropRejected, ModeliumError
from modelium.lifecycle import ModelState
from modelium.models import ModelProfile, Priority
from modelium.stages.analyze import analyze
from modelium.stages.inline import RETRIES
from tests.modelium.conftest import World

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("pinned", [False, True])
async def test_a_new_version_takes_the_place_of_the_loaded_one(world: World, pinned: bool) -> None:
    await world.load()
    world.store.rules.set_pinned("tiny", pinned)
    await world.drop(weight=2.0)
    record = await world.until("tiny", lambda m: not m.outdated and m.state == "ready")
    assert record.deployment is not None and record.deployment.version == 2
    assert [r.path for r in world.runtime.requests][-1].endswith("tiny@2")


def only_one_fits(world: World) -> None:
    """Shrink the device to one and a half models."""
    (booking,) = world.store.view()[2]
    size = int(booking.bytes * 1.5 / 0.9)
    (device,) = world.devices.devices
    shrunk = device.model_copy(update={"total_bytes": size, "free_bytes": size})
    world.devices.devices = (shrunk,)


async def test_a_new_version_waits_for_requests_on_the_old_one(world: World) -> None:
    await world.load()
    only_one_fits(world)
    async with world.services.switchboard.admit("tiny"):
        await world.drop(weight=2.0)
        await world.until("tiny", lambda m: m.state == "draining")
        record = await world.until("tiny", lambda m: m.state != "draining")
        assert record.state is ModelState.READY and record.outdated
    await world.until("tiny", lambda m: not m.outdated and m.state == "ready")


async def test_a_version_that_stays_busy_goes_on_serving(world: World) -> None:
    await world.load()
    only_one_fits(world)

    def failed() -> int:
        return [d.outcome for d in world.store.decisions.newest(model="tiny")].count("failed")

    async with world.services.switchboard.admit("tiny"):
        await world.drop(weight=2.0)
        await world.eventually(lambda: failed() == 1 + RETRIES)
        assert world.store.model("tiny").state is ModelState.READY
        assert world.services.switchboard.upstream("tiny") is not None


async def test_a_model_that_is_unloaded_for_another_version_stays_wanted(world: World) -> None:
    """Should the analysis end early, the queue has it loaded."""
    await world.load()
    only_one_fits(world)
    await world.drop(weight=2.0)
    await world.until("tiny", lambda m: not m.outdated and m.state == "ready")
    made = world.store.decisions.newest(model="tiny", limit=10)
    assert [action.requeue for each in made for action in each.plan.unloads] == [True]


async def test_a_current_model_that_is_analyzed_again_stays_loaded(world: World) -> None:
    await world.load()
    report = await analyze(world.services, model="tiny")
    assert report.outcome == "analyzed"
    assert world.store.model("tiny").state is ModelState.READY
    assert world.runtime.unloads == []


@pytest.mark.unfinished("its folder is gone")
async def test_a_loaded_model_gone_from_the_repository_goes_on_serving(world: World) -> None:
    await world.load()
    shutil.rmtree(world.store.model("tiny").path)
    with pytest.raises((ModeliumError, OSError)):
        await analyze(world.services, model="tiny")
    assert world.store.model("tiny").state is ModelState.READY
    assert world.heard[-1].kind == "model.unservable"
    assert await world.request() == "tiny"


@pytest.mark.unfinished("its files were changed")
async def test_files_that_turned_unsafe_mark_the_model_failed(world: World) -> None:
    record = await world.load()
    await world.launcher.evict(models=["tiny"])
    (world.incoming.parent / "repository" / "tiny" / "weights.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(DropRejected, match="pickle"):
        await analyze(world.services, model="tiny")
    failed = world.store.model("tiny")
    assert failed.state is ModelState.FAILED and "pickle" in failed.reason
    assert (world.heard[-1].kind, world.heard[-1].detail["rule"]) == ("model.failed", "pickle")
    assert failed.digest == record.digest


@pytest.mark.unfinished("its files were changed")
async def test_files_that_became_unsafe_after_ingest_are_refused(world: World) -> None:
    """The profile is ingest's, but the files are inspected again."""
    world.runtime.gate.clear()
    await world.drop()
    await world.settled("tiny", "loading")
    world.store.states.requeue("tiny", reason="test")
    record = world.store.register(
        "tiny",
        path=Path(world.store.model("tiny").path),
        digest="sha256:2",
        team=None,
        priority=Priority.LOW,
        priority_ceiling=Priority.HIGH,
        pinned=False,
        profile=profile_of(world),
    )
    assert record.state is ModelState.INGESTED
    (Path(record.path) / "x.pkl").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(DropRejected) as refused:
        await analyze(world.services, model="tiny")
    assert refused.value.reason == "pickle"
    world.runtime.gate.set()


def profile_of(world: World) -> ModelProfile:
    profile = world.store.model("tiny").profile
    assert profile is not None
    return profile.model_copy(update={"digest": "sha256:2"})
