"""Where nodes have one mount, one of them at a time watches and tidies it: the one that plans."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from modelium.config import Config
from modelium.control.housekeeping import LOOK_S, housekeeping
from modelium.control.leftovers import Leftovers
from modelium.control.recovery import take_up
from modelium.errors import ConfigError
from modelium.intake.moving import COPYING
from modelium.intake.repository import ModelRepository
from modelium.stages.services import Services
from modelium.stages.tidying import tidy
from modelium.stages.verification import verify
from tests.modelium.conftest import World, config


def shared(world: World, folder: Path) -> Services:
    """Return the world's services as those of a node that shares its folders."""
    document = config(folder).model_dump(exclude_defaults=True) | {
        "store": {"url": "postgresql://db/modelium"},
        "repository": {"shared": True},
    }
    settings = Config.model_validate(document)
    repository = ModelRepository(config=settings.orchestration, shared=True)
    return replace(world.services, config=settings, repository=repository, node="here")


def plan(services: Services, epoch: int | None) -> None:
    """Have this node plan, or another one."""
    services.store.blocking.planner._epoch = epoch


async def test_a_task_of_the_house_changes_hands_with_the_planner(
    world: World, tmp_path: Path
) -> None:
    services, seen = shared(world, tmp_path), list[str]()
    world.clock.hurried = False

    async def run() -> None:
        seen.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("ended")

    async def look() -> None:
        await world.clock.asleep()
        world.clock.advance(LOOK_S)
        await world.idle()

    plan(services, None)
    task = asyncio.create_task(housekeeping(services, run)())
    await look()
    assert seen == []
    for epoch, expected in (
        (1, ["begun"]),
        (None, ["begun", "ended"]),
        (2, ["begun", "ended", "begun"]),
    ):
        plan(services, epoch)
        await look()
        await look()
        assert seen == expected
    task.cancel()
    await asyncio.wait({task})
    assert seen[-1] == "ended"


async def test_an_error_of_such_a_task_is_its_supervisors(world: World, tmp_path: Path) -> None:
    async def run() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await housekeeping(shared(world, tmp_path), run)()


async def test_nobody_clears_away_what_another_node_is_at(world: World, tmp_path: Path) -> None:
    services = shared(world, tmp_path)
    repository = services.repository
    theirs = [
        repository.published / ".staging-there" / "1" / "model",
        repository.incoming / f"{COPYING}1",
    ]
    for folder in theirs:
        folder.mkdir(parents=True)
    plan(services, None)
    await take_up(services)
    await Leftovers(services=services).look()
    assert all(folder.exists() for folder in theirs)
    plan(services, 1)
    await take_up(services)
    assert [folder.exists() for folder in theirs] == [True, False]


async def test_only_the_planner_tidies_the_common_trash(world: World, tmp_path: Path) -> None:
    world.rule(enabled=False)
    await world.drop()
    services = shared(world, tmp_path)
    await services.store.lineage.begin_removal("tiny", by="operator", purge=False)
    await services.store.lineage.finish_removal("tiny")
    plan(services, None)
    await tidy(services)
    assert (services.repository.published / "tiny").exists()
    plan(services, 1)
    await tidy(services)
    assert not (services.repository.published / "tiny").exists()
    assert services.repository.trash.find("tiny").model == "tiny"


async def test_each_node_reads_common_files_once(world: World, tmp_path: Path) -> None:
    world.rule(enabled=False)
    await world.drop()
    services = shared(world, tmp_path)
    services.config.orchestration.state.mkdir(exist_ok=True)
    assert services.seals.of("tiny", 1) is None
    await verify(services, world.store.model("tiny"))
    assert services.seals.of("tiny", 1) == await services.store.lineage.seal("tiny", 1)


def test_sharing_folders_needs_a_store_that_is_shared() -> None:
    with pytest.raises((ConfigError, ValueError), match=r"store\.url"):
        Config.model_validate({"repository": {"shared": True}})
