"""What operators ask for about versions and files: removal, rollback, the trash."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelium.control.operations import Operations
from modelium.control.recovery import recover
from modelium.errors import InputError, StoreUnavailable, Unavailable, UnknownModel
from modelium.lifecycle import ModelState
from modelium.models import Intent, Priority, Report
from modelium.stages.evict import evict
from modelium.stages.removal import remove, remove_pending
from modelium.stages.snapshot import snapshot
from modelium.stages.switching import conclude
from modelium.stages.tidying import tidy
from tests.fakes.fleets import model
from tests.modelium.conftest import World
from tests.samples import risky_onnx, tiny_onnx

pytestmark = pytest.mark.slow


@pytest.fixture
async def operations(world: World) -> AsyncIterator[Operations]:
    opened = Operations(services=world.services)
    yield opened
    await opened.aclose()


async def removed(world: World, operations: Operations, name: str = "tiny", **given: Any) -> Intent:
    asked = {"by": "the operator", "purge": False, "force": False, **given}
    return await world.ended(await operations.versions.remove(name, **asked))


async def removal_of(world: World, name: str) -> Report:
    world.store.lineage.begin_removal(name, by="x", purge=False)
    return await remove(world.services, model=name)


def configure(world: World, section: str, **fields: Any) -> None:
    old = getattr(world.services.config, section)
    config = world.services.config.model_copy(update={section: old.model_copy(update=fields)})
    world.services = replace(world.services, config=config)


def repository(world: World) -> Path:
    return world.services.repository.published


def published(world: World) -> set[str]:
    return {entry.name for entry in repository(world).iterdir() if entry.name[0] != "."}


async def second_version(world: World, name: str = "tiny", *, weight: float = 2.0) -> None:
    version = world.store.model(name).version
    await world.drop(name, weight=weight)
    await world.until(name, lambda m: m.version == version + 1 and not m.outdated)
    await world.settled(name, "ready")
    await world.launcher._background.wait(timeout_s=60)
    world.clock.advance(61.0)  # the end of its trial
    await conclude(world.services, await snapshot(world.services))
    await world.launcher._background.wait(timeout_s=60)


# --- removal --------------------------------------------------------------------------------------


async def test_a_loaded_model_is_unloaded_and_its_files_go_to_the_trash(
    world: World, operations: Operations
) -> None:
    await world.load()
    intent = await removed(world, operations)
    assert (intent.state, intent.kind) == ("done", "remove")
    assert not world.runtime.held and not world.store.view()[2]
    assert world.store.find("tiny") is None and not published(world)
    (entry,) = await operations.versions.trash()
    assert (entry.model, entry.version, entry.by) == ("tiny", 1, "the operator")
    assert (entry.folder / "model.onnx").is_file()
    with pytest.raises(UnknownModel):
        await world.request()


async def test_what_was_removed_is_explained(world: World, operations: Operations) -> None:
    await world.load()
    await removed(world, operations, by="the key ci")
    explained = await operations.explain("tiny")
    assert explained.model is None and explained.decisions
    gone = next(e for e in explained.events if e.kind == "model.removed")
    assert gone.detail == {"by": "the key ci", "versions": [1], "purge": False}
    with pytest.raises(UnknownModel):
        await operations.explain("never-there")


async def test_purging_deletes_the_files(world: World, operations: Operations) -> None:
    await world.load()
    await removed(world, operations, purge=True)
    assert not published(world)
    assert not list(world.services.repository.trash.folder.iterdir())


async def test_the_name_is_free_for_a_new_drop(world: World, operations: Operations) -> None:
    await world.load()
    await removed(world, operations)
    await world.load()
    again = world.store.model("tiny")
    assert (again.version, again.traffic.completed) == (2, 0)
    assert await world.request() == "tiny@2"


async def test_a_drop_of_a_name_that_is_being_removed_waits(
    world: World, operations: Operations
) -> None:
    await world.load()
    world.clock.hurried = False
    world.runtime.unload_gate.clear()
    intent = await operations.versions.remove("tiny", by="x", purge=False, force=False)
    await world.settled("tiny", "unloading")
    dropping = asyncio.create_task(world.drop(weight=2.0))
    await world.clock.asleep()
    assert not dropping.done()
    world.clock.hurried = True
    world.runtime.unload_gate.set()
    world.clock.advance(1.0)
    assert (await dropping).outcome == "registered"
    assert (await world.ended(intent)).state == "done"
    await world.settled("tiny", "ready")


async def test_the_number_of_a_removed_version_is_never_used_again(
    world: World, operations: Operations
) -> None:
    await world.load()
    await removed(world, operations, purge=True)
    await world.load()
    assert Path(world.store.model("tiny").path).name == "tiny@2"


async def test_requests_that_wait_are_told(world: World, operations: Operations) -> None:
    await world.load()
    await evict(world.services, models=["tiny"])
    waiting = asyncio.create_task(world.request())
    await world.idle()
    await removed(world, operations)
    with pytest.raises(UnknownModel, match="tiny was removed"):
        await waiting


async def test_requests_in_flight_end_first_but_not_for_ever(
    world: World, operations: Operations
) -> None:
    await world.load()
    async with world.services.switchboard.admit("tiny"):
        intent = await removed(world, operations)  # drain_grace_seconds is 0 here
    assert intent.state == "done" and not world.runtime.held


@pytest.mark.parametrize("kept_by", ["pin", "always_loaded", "alias"])
async def test_what_the_operator_keeps_is_removed_by_force_alone(
    world: World, kept_by: str
) -> None:
    await world.load()
    if kept_by == "pin":
        world.store.rules.set_pinned("tiny", True)
    elif kept_by == "always_loaded":
        world.rule(always_loaded=frozenset({"tiny"}))
    else:
        configure(world, "gateway", aliases={"gpt-4": "tiny"})
    operations = Operations(services=world.services)
    word = {"pin": "pinned", "always_loaded": "always_loaded", "alias": "gpt-4"}[kept_by]
    with pytest.raises(InputError, match=word):
        await removed(world, operations)
    assert world.store.model("tiny").removal is None
    assert (await removed(world, operations, force=True)).state == "done"
    assert world.store.find("tiny") is None
    await operations.aclose()


async def test_nothing_is_unloaded_while_orchestration_is_off(
    world: World, operations: Operations
) -> None:
    await world.load()
    world.rule(enabled=False)
    off = Operations(services=world.services)
    with pytest.raises(InputError, match="enabled is false"):
        await removed(world, off)
    await off.aclose()


async def test_a_model_that_is_loading_is_removed(world: World, operations: Operations) -> None:
    world.runtime.gate.clear()
    await world.drop()
    await world.settled("tiny", "loading")
    await world.runtime.asked.wait()
    asked = asyncio.create_task(removed(world, operations))
    # The fake's unload does not cancel its load, as real drivers do: the load ends, and is undone.
    await world.eventually(lambda: world.store.model("tiny").removal is not None)
    world.runtime.gate.set()
    assert (await asked).state == "done"
    assert world.store.find("tiny") is None and not world.runtime.held
    assert world.services.switchboard.upstream("tiny") is None


async def test_a_queued_and_a_failed_model_are_removed(
    world: World, operations: Operations
) -> None:
    world.runtime.healthy = False
    await world.services.runtime_monitor.observe({})
    await world.drop()
    await world.settled("tiny", "queued")
    assert (await removed(world, operations)).state == "done"
    world.runtime.healthy = True
    await world.services.runtime_monitor.observe({})
    world.runtime.failure = RuntimeError("broken")
    await world.drop(weight=2.0)
    await world.settled("tiny", "failed")
    assert (await removed(world, operations)).state == "done"
    assert world.store.find("tiny") is None


async def test_a_model_that_is_being_removed_is_never_loaded(
    world: World, operations: Operations
) -> None:
    await world.load()
    await evict(world.services, models=["tiny"])
    world.store.lineage.begin_removal("tiny", by="x", purge=False)
    report = await world.launcher.load(model="tiny")
    assert report.outcome == "keep" and "being removed" in report.reason
    assert world.store.model("tiny").state is ModelState.UNLOADED


async def test_a_runtime_that_does_not_answer_delays_the_removal(
    world: World, operations: Operations
) -> None:
    await world.load()
    world.runtime.unload_failure = Unavailable("no answer")
    intent = await removed(world, operations)
    assert (intent.state, intent.detail) == ("failed", "no answer")
    assert published(world) == {"tiny"}  # nothing is gone while it may still run
    assert world.services.switchboard.upstream("tiny") is None
    world.runtime.unload_failure = None
    await recover(world.services)
    await world.eventually(lambda: world.store.find("tiny") is None)
    await world.event("model.removed")
    assert not published(world)


@pytest.mark.parametrize("crash_after", ["begin", "finish", "move"])
async def test_a_removal_that_a_crash_interrupts_goes_on_at_the_next_start(
    world: World, crash_after: str
) -> None:
    await world.load()
    lineage = world.store.lineage
    lineage.begin_removal("tiny", by="x", purge=False)
    if crash_after != "begin":
        await evict(world.services, models=["tiny"])
        lineage.finish_removal("tiny")
    if crash_after == "move":
        (gone,) = lineage.versions("tiny", removed=True)
        world.services.repository.trash.put(gone)
    await recover(world.services)
    await world.eventually(lambda: world.store.find("tiny") is None)
    await world.launcher._background.wait(timeout_s=60)
    assert not published(world) and not world.runtime.held
    (entry,) = world.services.repository.trash.entries()
    assert (entry.folder / "model.onnx").is_file()


async def test_the_loop_goes_on_with_a_removal_once(world: World) -> None:
    await world.load()
    world.store.lineage.begin_removal("tiny", by="x", purge=False)
    await remove_pending(world.services)
    await remove_pending(world.services)
    await world.event("model.removed")
    await world.launcher._background.wait(timeout_s=60)
    assert [kind for kind, _ in world.kinds()].count("model.removed") == 1
    assert [stage for stage, _ in world.ran].count("evict") == 1


async def test_a_removal_goes_on_without_a_restart_when_its_runtime_is_back(
    world: World, operations: Operations
) -> None:
    await world.load()
    world.runtime.unload_failure = Unavailable("no answer")
    await removed(world, operations)
    world.runtime.unload_failure = None
    await world.converge()
    world.clock.advance(3600.0)
    await remove_pending(world.services)
    await world.event("model.removed")
    assert not world.runtime.held and not published(world)


async def test_files_that_cannot_be_moved_yet_are_not_said_to_be(
    world: World, operations: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.load()
    rename = os.rename

    def refused(source: Any, target: Any) -> None:
        if "tiny@1" in str(target):
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refused)
    report = await removal_of(world, "tiny")
    assert "not moved yet" in report.reason and published(world) == {"tiny"}
    monkeypatch.undo()
    await tidy(world.services)
    assert not published(world)


# --- single versions ------------------------------------------------------------------------------


async def test_an_old_version_is_removed_alone(world: World, operations: Operations) -> None:
    await world.load()
    await second_version(world)
    intent = await operations.versions.remove_version("tiny", 1, by="x", purge=False, force=False)
    assert intent.state == "done"
    assert published(world) == {"tiny@2"} and world.store.model("tiny").state is ModelState.READY
    listed = await operations.versions.of("tiny")
    assert [(v.version, v.removed_by) for v in listed] == [(2, None), (1, "x")]


async def test_the_current_version_is_not_removed_alone(
    world: World, operations: Operations
) -> None:
    await world.load()
    await second_version(world)
    with pytest.raises(InputError, match="modelium rollback tiny"):
        await operations.versions.remove_version("tiny", 2, by="x", purge=False, force=True)


async def test_the_only_version_is_the_model(world: World, operations: Operations) -> None:
    await world.load()
    intent = await operations.versions.remove_version("tiny", 1, by="x", purge=False, force=False)
    assert (await world.ended(intent)).state == "done"
    assert world.store.find("tiny") is None


async def test_a_version_that_an_alias_names_stays(world: World) -> None:
    await world.load()
    await second_version(world)
    configure(world, "gateway", aliases={"stable": "tiny:1"})
    operations = Operations(services=world.services)
    with pytest.raises(InputError, match="alias"):
        await operations.versions.remove_version("tiny", 1, by="x", purge=False, force=False)
    intent = await operations.versions.remove_version("tiny", 1, by="x", purge=False, force=True)
    assert intent.state == "done"
    await operations.aclose()


async def test_what_is_only_a_drop_is_told_from_an_unknown_model(
    world: World, operations: Operations
) -> None:
    risky_onnx(world.incoming / "bad", "weights.pkl")
    await world.launcher.ingest(path=str(world.incoming / "bad"))
    with pytest.raises(UnknownModel, match=f"a drop, rejected; delete {world.rejected / 'bad'}"):
        await operations.versions.remove("bad", by="x", purge=False, force=False)


# --- rollback -------------------------------------------------------------------------------------


async def test_a_rollback_serves_the_version_before(world: World, operations: Operations) -> None:
    await world.load()
    await second_version(world)
    intent = await operations.versions.rollback("tiny", by="the key ci")
    done = await world.ended(intent)
    assert done.state == "done"
    assert done.detail == "version 1 is the current one again, in place of version 2"
    record = await world.until(
        "tiny", lambda m: m.version == 1 and not m.outdated and m.state == "ready"
    )
    assert record.deployment is not None and record.deployment.version == 1
    explained = await operations.explain("tiny")
    assert any("the key ci rolled it back" in d.plan.reason for d in explained.decisions)
    # Forward again, by its number.
    await world.ended(await operations.versions.rollback("tiny", 2, by="x"))
    await world.until("tiny", lambda m: m.version == 2 and not m.outdated and m.state == "ready")


async def test_there_must_be_a_version_to_return_to(world: World, operations: Operations) -> None:
    await world.load()
    with pytest.raises(InputError, match="no version of tiny before 1 is kept"):
        await operations.versions.rollback("tiny", by="x")
    with pytest.raises(InputError, match="version 7 of tiny is not kept; kept: 1"):
        await operations.versions.rollback("tiny", 7, by="x")
    (intent,) = world.store.intents.newest(limit=1)
    assert (intent.kind, intent.state) == ("rollback", "failed")
    assert intent.detail == "version 7 of tiny is not kept; kept: 1"


async def test_a_rollback_that_cannot_be_recorded_changes_nothing(
    world: World, operations: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.load()
    await second_version(world)

    async def full(intent: Intent) -> Intent:
        raise StoreUnavailable("database or disk is full", reason="full")

    monkeypatch.setattr(world.services.store.intents, "save", full)
    with pytest.raises(StoreUnavailable):
        await operations.versions.rollback("tiny", by="x")
    record = world.store.model("tiny")
    assert (record.version, record.outdated) == (2, False)


# --- the trash ------------------------------------------------------------------------------------


async def test_a_removed_model_is_restored(world: World, operations: Operations) -> None:
    await world.load()
    await removed(world, operations)
    intent = await world.ended(await operations.versions.restore("tiny"))
    assert (intent.state, intent.model) == ("done", "tiny")
    await world.settled("tiny", "ready")
    assert not await operations.versions.trash()
    with pytest.raises(InputError, match="modelium trash ls"):
        await operations.versions.restore("tiny")


async def test_moving_the_folder_into_the_drop_zone_restores_it(
    world: World, operations: Operations
) -> None:
    await world.load()
    await removed(world, operations)
    (entry,) = await operations.versions.trash()
    entry.folder.rename(world.incoming / "tiny")
    await world.launcher.ingest(path=str(world.incoming / "tiny"))
    await world.settled("tiny", "ready")


async def test_the_trash_is_emptied_when_its_retention_ends(
    world: World, operations: Operations
) -> None:
    await world.load()
    await removed(world, operations)
    folder = world.services.repository.trash.folder
    await tidy(world.services)
    assert len(list(folder.iterdir())) == 1
    world.clock.advance(8 * 86400.0)
    await tidy(world.services)
    assert not list(folder.iterdir())


async def test_a_note_that_is_damaged_costs_no_other_entry(world: World) -> None:
    trash = world.services.repository.trash
    for number, text in enumerate(("{", json.dumps({"purge": False}), "[]")):
        (trash.folder / f"odd{number}").mkdir()
        (trash.folder / f"odd{number}" / "removed.json").write_text(text)
    assert trash.entries() == []


# --- how many versions are kept -------------------------------------------------------------------


async def test_versions_beyond_the_kept_ones_go_to_the_trash(world: World) -> None:
    await world.load()
    for weight in (2.0, 3.0):
        await second_version(world, weight=weight)
    await tidy(world.services)
    assert published(world) == {"tiny@2", "tiny@3"}
    (entry,) = world.services.repository.trash.entries()
    assert (entry.version, entry.by) == (1, "ingest.keep_versions")


async def test_a_version_in_use_is_kept_beyond_the_count(world: World) -> None:
    await world.load()
    for weight in (2.0, 3.0):
        await second_version(world, weight=weight)
    configure(world, "gateway", aliases={"stable": "tiny:1"})
    configure(world, "ingest", keep_versions=1)
    await tidy(world.services)
    assert published(world) == {"tiny", "tiny@3"}


async def test_space_is_made_from_trash_and_old_versions(world: World) -> None:
    await world.load()
    await second_version(world)
    tiny_onnx(world.incoming / "other")
    await world.launcher.ingest(path=str(world.incoming / "other"))
    operations = Operations(services=world.services)
    await removed(world, operations, "other")
    configure(world, "ingest", min_free_gib=1e9)
    await tidy(world.services)
    assert published(world) == {"tiny@2"}  # the current version is never deleted
    assert not list(world.services.repository.trash.folder.iterdir())
    await operations.aclose()


async def test_a_rejected_drop_is_no_model_to_remove(world: World, operations: Operations) -> None:
    risky_onnx(world.incoming / "tiny", "weights.pkl")
    await world.launcher.ingest(path=str(world.incoming / "tiny"))
    with pytest.raises(UnknownModel):
        await removed(world, operations)


# --- what is told ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, ""),
        ({"pinned": True}, "it is pinned (`modelium pin tiny --off` unpins it)"),
        (
            {"aliases": {"z": "tiny:1", "a": "tiny", "b": "other"}},
            "gateway.aliases names it as a, z",
        ),
        ({"aliases": {"tiny": "other", "x": "tiny2"}}, ""),
        ({"always": "tiny"}, "it is in policies.always_loaded of the configuration"),
        ({"always": "other"}, ""),
    ],
)
async def test_what_keeps_a_model_is_told(world: World, given: dict[str, Any], kept: str) -> None:
    configure(world, "gateway", aliases=given.get("aliases", {}))
    world.rule(always_loaded=frozenset({given["always"]} if "always" in given else ()))
    asked = Operations(services=world.services).versions
    assert asked._kept_because(model("tiny", pinned=given.get("pinned", False))) == kept


async def test_a_version_that_is_not_there_ends_its_request(
    world: World, operations: Operations
) -> None:
    await world.load()
    await second_version(world)
    intent = await operations.versions.remove_version("tiny", 9, by="x", purge=False, force=False)
    assert (intent.state, intent.detail) == ("failed", "tiny has no version 9")
    assert "version.removed" not in {kind for kind, _ in world.kinds()}
    intent = await operations.versions.remove_version("tiny", 1, by="x", purge=True, force=False)
    assert (intent.state, intent.detail) == ("done", "version 1 was removed")
    assert intent.parameters == {"version": 1, "by": "x"}
    told = await world.event("version.removed")
    assert told.detail == {"version": 1, "by": "x", "purge": True}
    assert [v.version for v in await operations.versions.of("tiny")] == [2, 1]
    with pytest.raises(UnknownModel):
        await operations.versions.of("nobody")


async def test_a_rollback_returns_to_the_version_right_before(
    world: World, operations: Operations
) -> None:
    await world.load()
    await evict(world.services, models=["tiny"])
    lineage = world.store.lineage
    for number in (2, 3, 4):
        world.store.register(
            "tiny", path=Path(f"/x{number}"), digest=f"d{number}", team=None, priority=Priority.LOW,
            priority_ceiling=Priority.LOW, pinned=False,
        )  # fmt: skip
    lineage.choose("tiny", 3)
    lineage.retire("tiny", [2], by="x")
    intent = await operations.versions.rollback("tiny", by="me")
    assert (intent.kind, intent.parameters) == ("rollback", {"version": 1, "by": "me"})
    assert world.store.model("tiny").version == 1
    told = await world.event("model.rolled-back")
    assert (told.model, told.detail) == ("tiny", {"version": 1, "was": 3, "by": "me"})
    (made, *_) = world.store.decisions.newest(model="tiny")
    assert (made.outcome, made.plan.author, made.plan.trigger) == ("done", "operator", "operator")
    assert made.plan.reason == "version 1 replaces version 3: me rolled it back"
    assert made.finished_at == made.at
    await world.ended(intent)
    lineage.retire("tiny", [3, 4], by="x")
    for number in (2, 3, 4):
        lineage.note_moved("tiny", number, "")


async def test_a_removal_is_announced_and_recorded(world: World, operations: Operations) -> None:
    await world.load()
    intent = await removed(world, operations, purge=True)
    assert intent.parameters == {"purge": True, "by": "the operator"}
    told = await world.event("model.removing")
    assert (told.model, told.detail) == ("tiny", {"by": "the operator", "purge": True})


async def test_a_model_that_is_not_loaded_is_removed_while_orchestration_is_off(
    world: World,
) -> None:
    await world.load()
    await evict(world.services, models=["tiny"])
    world.rule(enabled=False)
    operations = Operations(services=world.services)
    assert (await removed(world, operations)).state == "done"
    await operations.aclose()
