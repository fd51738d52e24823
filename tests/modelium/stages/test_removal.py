"""A removal ends what is loaded, forgets the model and moves its files; a failed one is retried."""

from __future__ import annotations

import shutil

import pytest

from modelium.errors import Unavailable
from modelium.models import Report
from modelium.stages import removal
from modelium.stages.removal import RETRY_S, remove, remove_pending
from tests.fakes.runtime import upstream
from tests.modelium.conftest import World
from tests.modelium.stages.rows import (
    background,
    becomes_ready_when_read,
    booked,
    configured,
    deployment_of,
    events,
    ready,
    registered,
    states,
    with_files,
)

pytestmark = pytest.mark.unfinished("models without files")


def begun(world: World, name: str = "tiny", *, purge: bool = False) -> None:
    world.store.lineage.begin_removal(name, by="me", purge=purge)


async def test_a_removal_reports_what_became_of_the_files(world: World) -> None:
    with_files(world)
    registered(world, "other")
    begun(world)
    report = await remove(world.services, model="tiny")
    trash = world.services.repository.trash.folder
    assert report == Report(
        stage="evict",
        outcome="removed",
        model="tiny",
        reason=f"its files were moved to {trash}",
        details={"versions": [1]},
    )
    assert (
        not world.services.repository.path("tiny", 1).exists() and len(list(trash.iterdir())) == 1
    )
    assert events(world, "model.removed") == [
        ("tiny", {"by": "me", "versions": [1], "purge": False})
    ]
    assert states(world) == {"other": "ingested"}
    assert world.services.switchboard._known == {"other": 1}
    nothing = await remove(world.services, model="tiny")
    assert nothing == Report(
        stage="evict", outcome="nothing", model="tiny", reason="it is not registered"
    )


async def test_a_purge_deletes_the_files(world: World) -> None:
    with_files(world)
    begun(world, purge=True)
    report = await remove(world.services, model="tiny")
    assert report.reason == "its files were deleted"
    assert list(world.services.repository.trash.folder.iterdir()) == []


@pytest.mark.parametrize(("purge", "done"), [(False, "moved"), (True, "deleted")])
async def test_files_that_stay_for_now_are_named_as_such(
    world: World, purge: bool, done: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_files(world)
    begun(world, purge=purge)

    def failing(*_args: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(world.services.repository.trash, "put", failing)
    report = await remove(world.services, model="tiny")
    assert report.reason == (
        f"its files were not {done} yet: see the log; that is tried again every hour"
    )


async def test_a_model_that_nobody_asked_to_remove_stays(world: World) -> None:
    registered(world)
    ready(world)
    report = await remove(world.services, model="tiny")
    assert (report.outcome, states(world)) == ("nothing", {"tiny": "ready"})
    assert world.services.switchboard.upstream("tiny") is not None


async def test_a_model_is_closed_and_unknown_before_it_is_unloaded(world: World) -> None:
    registered(world)
    ready(world)
    await world.request()
    begun(world)
    world.runtime.unload_gate.clear()
    world.launcher.start(remove(world.services, model="tiny"))
    await world.settled("tiny", "unloading")
    board = world.services.switchboard
    assert board.upstream("tiny") is None and "tiny" not in board._known
    world.runtime.unload_gate.set()
    await background(world)
    assert states(world) == {} and not world.runtime.held
    assert "tiny" not in board.traffic.snapshot()


async def test_a_load_in_progress_is_ended_and_waited_for(world: World) -> None:
    registered(world)
    booked(world)
    begun(world)
    world.runtime.held["tiny"] = upstream("tiny")
    world.clock.hurried = False
    world.launcher.start(remove(world.services, model="tiny"))
    await world.clock.asleep()
    assert (world.runtime.unloads, states(world)) == ([("tiny", 0.0)], {"tiny": "loading"})
    world.store.states.cancel_load("tiny", reason="its run gave up")
    world.clock.advance(removal.POLL_S)
    await background(world)
    assert states(world) == {}


async def test_a_load_that_becomes_ready_as_it_is_removed_is_unloaded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(world)
    booked(world)
    begun(world)
    becomes_ready_when_read(world, monkeypatch)
    await remove(world.services, model="tiny")
    assert states(world) == {} and not world.runtime.held


async def test_twins_go_with_their_model_alone(world: World) -> None:
    for name in ("tiny", "other"):
        registered(world, name)
        ready(world, name)
        registered(world, name, version=2)
        world.store.twins.stand_by(name)
        ready(world, f"{name}@2")
    begun(world)
    await remove(world.services, model="tiny")
    assert states(world) == {"other": "ready", "other@2": "ready"}
    assert set(world.runtime.held) == {"other", "other@2"}


async def test_what_a_failed_model_still_runs_is_unloaded_in_grace(world: World) -> None:
    registered(world)
    ready(world)
    world.store.states.mark_unservable("tiny", reason="a pickle")
    configured(world, "gateway", drain_grace_seconds=7.0)
    assert deployment_of(world).name == "tiny"
    begun(world)
    await remove(world.services, model="tiny")
    assert world.runtime.unloads == [("tiny", 7.0)]
    assert states(world) == {} and "tiny" not in world.services.owners


async def test_removals_that_nobody_is_at_are_started(world: World) -> None:
    for name in ("a", "b", "c"):
        registered(world, name)
        if name != "c":
            begun(world, name)
    await remove_pending(world.services)
    await background(world)
    assert states(world) == {"c": "ingested"}


async def test_a_removal_that_fails_is_tried_again_after_a_pause(world: World) -> None:
    registered(world)
    booked(world)
    begun(world)
    world.runtime.unload_failure = Unavailable("no answer")
    world.clock.advance(100.0)
    for pause, asked in ((0.0, 1), (RETRY_S - 1.0, 1), (1.1, 2)):
        world.clock.advance(pause)
        await remove_pending(world.services)
        await background(world)
        assert len(world.runtime.unloads) == asked


async def test_a_removal_in_progress_is_joined(world: World) -> None:
    registered(world)
    ready(world)
    begun(world)
    world.runtime.unload_gate.clear()
    await remove_pending(world.services)
    await world.settled("tiny", "unloading")
    await remove_pending(world.services)
    world.runtime.unload_gate.set()
    await background(world)
    assert len(world.runtime.unloads) == 1 and len(events(world, "model.removed")) == 1


async def test_files_that_are_gone_already_were_moved(world: World) -> None:
    record = with_files(world)
    shutil.rmtree(record.path)
    begun(world)
    assert (await remove(world.services, model="tiny")).reason.startswith("its files were moved")
