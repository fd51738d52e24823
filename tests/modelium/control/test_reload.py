"""A changed configuration is put in force as a whole, or changes nothing and is reported."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

from agents.rules.planner import RulePlanner
from modelium.config import Config
from modelium.config.loading import load
from modelium.control.reload import POLL_S, RETRY_S, SETTLE_S, ConfigSource, Reloaded, Reloader
from modelium.errors import ConfigError, LoadFailed, StoreUnavailable
from modelium.models import Fleet, Plan, Priority, Trigger
from modelium.models.advice import Advice
from modelium.policy import Policy
from modelium.ports import Question
from tests.integration.service import laid_over
from tests.modelium.conftest import World
from tests.modelium.conftest import config as config_of


class Edited:
    """A configuration file of a running service, and what an operator writes into it."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.file = folder / "modelium.yaml"
        self._base: dict[str, Any] = config_of(folder).model_dump(mode="json", exclude_unset=True)
        self.write()
        self.source = ConfigSource(read=self._read, file=self.file)
        world.services.configure(self._read())
        self.reloader = Reloader(services=world.services, signals=world.signals, source=self.source)
        self.seen: list[Config] = []
        self.reloader.listen(self.seen.append)

    def text(self, **changes: Any) -> str:
        return yaml.safe_dump(laid_over(self._base, changes))

    def write(self, **changes: Any) -> None:
        self.file.write_text(self.text(**changes))

    async def reload(self, **changes: Any) -> Reloaded:
        self.write(**changes)
        return await self.reloader.reload()

    def _read(self) -> Config:
        return load(self.file, {})

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Watch the file; time passes only when the test advances the clock."""
        self.world.clock.hurried = False
        task = asyncio.create_task(self.reloader.run())
        await self.world.clock.asleep()
        yield
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def looks(self, times: int) -> None:
        """Let the watcher look at the file."""
        for _ in range(times):
            self.world.clock.advance(POLL_S)
            await self.world.clock.asleep()


@pytest.fixture
async def edited(world: World, tmp_path: Path) -> Edited:
    return Edited(world, tmp_path)


SETTLED = round(SETTLE_S / POLL_S) + 1


async def test_policies_take_effect_at_once(edited: Edited) -> None:
    done = await edited.reload(orchestration={"policies": {"auto_unload_after_seconds": 60.0}})
    assert done.changed == ("orchestration.policies.auto_unload_after_seconds: 3600.0 → 60.0",)
    assert edited.world.services.policy.auto_unload_after_s == 60.0
    assert edited.seen == [edited.world.services.config]
    assert edited.world.signals.tick_wanted.is_set()
    event = await edited.world.event("config.reloaded")
    assert event.detail["changed"] == list(done.changed)


async def test_what_needs_a_restart_is_named_until_it_is_taken_back(edited: Edited) -> None:
    port = edited.world.services.config.gateway.port
    done = await edited.reload(gateway={"port": 8765})
    assert done.restart == (f"gateway.port needs a restart: still {port}",)
    assert edited.reloader.notices() == list(done.restart)
    assert edited.world.services.config.gateway.port == port
    await edited.reload()
    assert edited.reloader.notices() == []


async def test_an_invalid_file_changes_nothing_and_is_reported(edited: Edited) -> None:
    before = edited.world.services.config
    edited.file.write_text(edited.text(models={"tiny": {"pinned": True}}) + "gateway: {prot: 1}\n")
    for _ in range(2):
        with pytest.raises(ConfigError):
            await edited.reloader.reload()
    assert edited.world.services.config is before
    (notice,) = edited.reloader.notices()
    assert "is invalid, the one before stays in force" in notice
    assert "duplicate key gateway" in notice
    assert [kind for kind, _ in edited.world.kinds()].count("config.invalid") == 1
    await edited.reload()
    assert edited.reloader.notices() == []


async def test_an_entry_changes_a_registered_model_and_back(edited: Edited) -> None:
    world = edited.world
    await world.drop("tiny", team="research")
    done = await edited.reload(
        models={"tiny": {"team": "prod", "priority": "high", "pinned": True}}
    )
    assert done.models == ("tiny",)
    model = world.store.model("tiny")
    assert (model.team, model.priority, model.pinned) == ("prod", Priority.HIGH, True)
    await edited.reload()
    model = world.store.model("tiny")
    assert (model.team, model.priority, model.pinned) == ("research", Priority.LOW, False)


async def test_a_changed_entry_of_a_quarantined_model_has_it_tried_again(edited: Edited) -> None:
    world = edited.world
    once = {"policies": {"quarantine_after_failures": 1}}
    entry = {"settings": {"max_model_len": 64}}
    await edited.reload(orchestration=once)
    world.runtime.failure = LoadFailed("bad magic")
    await world.drop()
    await world.settled("tiny", "failed")
    await edited.reload(orchestration=once, models={"other": entry})
    assert world.store.model("tiny").quarantined
    reloaded = await edited.reload(orchestration=once, models={"other": entry, "tiny": entry})
    assert reloaded.models == ("tiny",)
    record = world.store.model("tiny")
    assert not record.quarantined and record.failures == 0
    world.runtime.failure = None
    world.clock.advance(1)
    await world.launcher.decide(trigger=Trigger.UPKEEP)
    await world.settled("tiny", "ready")


async def test_a_team_that_becomes_important_lifts_its_models(edited: Edited) -> None:
    await edited.world.drop("tiny", team="research")
    await edited.reload(orchestration={"policies": {"high_priority_teams": ["research"]}})
    assert edited.world.store.model("tiny").priority is Priority.MEDIUM


async def test_a_pin_by_an_operator_outlives_a_reload_of_something_else(edited: Edited) -> None:
    world = edited.world
    await world.drop("tiny")
    world.store.rules.set_pinned("tiny", True)
    await edited.reload(models={"tiny": {"team": "prod"}})
    model = world.store.model("tiny")
    assert (model.team, model.pinned) == ("prod", True)


class Interrupted:
    """A brain during whose first plan the rules change."""

    def __init__(self, change: Callable[[], Any]) -> None:
        self.rules = RulePlanner()
        self.change: Callable[[], Any] | None = change
        self.asked: list[Policy] = []

    async def advise(self, question: Question, fleet: Fleet, policy: Policy) -> Advice | None:
        return None

    async def decide(
        self, question: Question, fleet: Fleet, policy: Policy, advice: Advice | None = None
    ) -> Plan:
        plan = await self.rules.decide(question, fleet, policy, advice)
        self.asked.append(policy)
        if change := self.change:
            self.change = None
            await change()
        return plan


async def test_a_plan_that_is_made_during_a_reload_is_made_again(edited: Edited) -> None:
    world = edited.world
    await world.load()
    world.clock.advance(world.services.policy.auto_unload_after_s + 1)
    brain = Interrupted(
        lambda: edited.reload(orchestration={"policies": {"always_loaded": ["tiny"]}})
    )
    world.services.brain = brain
    await world.launcher.decide(trigger=Trigger.SWEEP)
    assert world.store.model("tiny").state == "ready"
    assert [policy.always_loaded for policy in brain.asked] == [frozenset(), frozenset({"tiny"})]
    assert "plan.refused" not in {kind for kind, _ in world.kinds()}


async def test_a_load_survives_a_reload(edited: Edited) -> None:
    world = edited.world
    world.runtime.gate = asyncio.Event()
    await world.drop("tiny")
    await world.settled("tiny", "loading")
    asking = asyncio.create_task(world.request("tiny"))
    edited.source.wanted.set()  # SIGHUP
    edited.write(models={"tiny": {"pinned": True}}, gateway={"max_wait_seconds": 10.0})
    running = asyncio.create_task(edited.reloader.run())
    await world.event("config.reloaded")
    running.cancel()
    assert world.store.model("tiny").state == "loading"
    assert not asking.done()
    world.runtime.gate.set()
    assert await asking == "tiny"
    assert world.store.model("tiny").pinned


async def test_a_changed_file_is_read_once_it_has_settled(edited: Edited) -> None:
    async with edited.watched():
        half = edited.text(models={"tiny": {"pinned": True}})
        edited.file.write_text(half[: len(half) // 2])
        await edited.looks(1)
        edited.file.write_text(half)
        await edited.looks(1)
        assert edited.seen == []
        await edited.looks(SETTLED)
        assert [seen.models["tiny"].pinned for seen in edited.seen] == [True]
        assert "config.invalid" not in {kind for kind, _ in edited.world.kinds()}
        await edited.looks(2 * SETTLED)
        assert len(edited.seen) == 1


async def test_a_file_that_is_saved_by_a_rename_is_read(edited: Edited) -> None:
    async with edited.watched():
        saved = edited.file.with_suffix(".swp")
        saved.write_text(edited.text(models={"tiny": {"pinned": True}}))
        saved.rename(edited.file)
        await edited.looks(SETTLED)
        assert len(edited.seen) == 1


async def test_a_link_whose_target_is_replaced_is_read(edited: Edited, tmp_path: Path) -> None:
    """As Kubernetes updates a ConfigMap: FILE → ..data/FILE, and ..data → a folder."""
    for name, pinned in (("v1", False), ("v2", True)):
        (tmp_path / name).mkdir()
        text = edited.text(models={"tiny": {"pinned": pinned}})
        (tmp_path / name / "modelium.yaml").write_text(text)
    (tmp_path / "..data").symlink_to("v1")
    edited.file.unlink()
    edited.file.symlink_to("..data/modelium.yaml")
    await edited.reloader.reload()
    edited.seen.clear()
    async with edited.watched():
        (tmp_path / "..new").symlink_to("v2")
        os.replace(tmp_path / "..new", tmp_path / "..data")
        await edited.looks(SETTLED)
        assert [seen.models["tiny"].pinned for seen in edited.seen] == [True]


async def test_a_file_that_is_gone_changes_nothing_and_is_reported(edited: Edited) -> None:
    before = edited.world.services.config
    async with edited.watched():
        edited.file.unlink()
        await edited.looks(SETTLED)
        await edited.world.event("config.invalid")
        assert edited.world.services.config is before
        assert "no such file" in edited.reloader.notices()[0]


async def test_what_a_full_disk_kept_from_the_store_is_stored_by_the_next_reload(
    edited: Edited, world: World
) -> None:
    await world.load()

    def full(*_args: object) -> None:
        raise OSError(28, "database or disk is full")

    sa.event.listen(world.store._engine, "commit", full)
    with pytest.raises(OSError, match="full"):
        await edited.reload(models={"tiny": {"priority": "high"}})
    sa.event.remove(world.store._engine, "commit", full)
    assert (await edited.reloader.reload()).models == ("tiny",)
    assert world.store.model("tiny").priority is Priority.HIGH


async def test_a_reload_that_changes_nothing_is_not_announced(edited: Edited) -> None:
    assert await edited.reload() == Reloaded()
    assert edited.seen == []
    assert edited.world.heard == []
    assert not edited.world.signals.tick_wanted.is_set()


async def test_what_needs_a_restart_is_announced_once(edited: Edited) -> None:
    for _ in range(2):
        done = await edited.reload(gateway={"port": 8765})
        assert (done.changed, len(done.restart)) == ((), 1)
    (event,) = edited.world.heard
    assert event.detail == {"changed": [], "restart": list(done.restart), "models": []}
    assert edited.seen == []


async def test_a_file_that_is_mended_is_announced(edited: Edited) -> None:
    edited.file.write_text("gateway: [")
    with pytest.raises(ConfigError) as told:
        await edited.reloader.reload()
    assert await edited.reload() == Reloaded()
    invalid, mended = edited.world.heard
    assert (invalid.kind, invalid.detail) == ("config.invalid", {"problem": str(told.value)})
    assert (mended.kind, mended.detail["changed"]) == ("config.reloaded", [])


async def test_a_problem_of_several_lines_is_told_by_its_first(edited: Edited) -> None:
    world, reloader = edited.world, edited.reloader
    await edited.reload(gateway={"port": 8765})
    await reloader._refuse("first\nsecond\nthird")
    at = time.strftime("%F %T", time.localtime(world.clock.time()))
    told, restart = reloader.notices()
    assert told == (
        f"the configuration of {at} is invalid, the one before stays in force: first (and 2 more)"
    )
    assert restart.startswith("gateway.port needs a restart")
    await reloader._refuse("alone")
    assert reloader.notices()[0].endswith("stays in force: alone")


async def test_a_file_is_read_when_it_has_not_changed_for_long_enough(edited: Edited) -> None:
    async with edited.watched():
        edited.write(models={"tiny": {"pinned": True}})
        await edited.looks(1)
        for _ in range(round(SETTLE_S / POLL_S) - 1):
            await edited.looks(1)
            assert edited.seen == []
        await edited.looks(1)
        await edited.world.eventually(lambda: len(edited.seen) == 1)
    assert set(edited.world.clock.slept) == {POLL_S}


async def test_what_is_wanted_is_read_at_once_and_once(edited: Edited) -> None:
    async with edited.watched():
        edited.write(models={"tiny": {"pinned": True}})
        edited.source.wanted.set()
        await edited.world.event("config.reloaded")
        assert len(edited.seen) == 1
        assert not edited.source.wanted.is_set()
        await edited.looks(2 * SETTLED)
        assert len(edited.seen) == 1


async def test_what_a_locked_store_could_not_take_is_stored_later(edited: Edited) -> None:
    world = edited.world
    await world.load()
    with world.locked(), pytest.raises(StoreUnavailable):
        await edited.reload(models={"tiny": {"team": "a", "priority": "high"}})
    (notice,) = edited.reloader.notices()
    assert notice.endswith("the store could not be written; it is tried again every 10 s")
    async with edited.watched():
        await edited.looks(round(RETRY_S / POLL_S) - 1)
        assert edited.reloader.notices() == [notice]
        await edited.looks(1)
        event = await world.event("config.reloaded")
        await world.eventually(lambda: edited.reloader.notices() == [])
        await edited.looks(2 * round(RETRY_S / POLL_S))
    assert event.detail["models"] == ["tiny"]
    changed = [change.partition(":")[0] for change in event.detail["changed"]]
    assert changed == ["models.tiny.team", "models.tiny.priority"]
    assert world.store.model("tiny").team == "a"
    assert world.kinds().count(("config.reloaded", None)) == 1
