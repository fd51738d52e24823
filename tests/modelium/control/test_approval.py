"""An approval ingests the refused drop that is meant, for the team whose drop it is."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelium.control.approval import Wanted, admit
from modelium.control.operations import Operations
from modelium.errors import DropRejected, InputError
from modelium.models import Priority
from tests.modelium.conftest import World
from tests.modelium.teams import declare, drop, refused
from tests.samples import risky_onnx

pytestmark = pytest.mark.slow


@pytest.fixture
async def operations(world: World) -> AsyncIterator[Operations]:
    declare(world)
    opened = Operations(services=world.services)
    yield opened
    await opened.aclose()


def reason(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "reason.json").read_text())
    return found


async def test_an_approved_drop_is_its_teams(world: World, operations: Operations) -> None:
    await refused(world, "lab/tiny", priority_ceiling="low")
    (listed,) = await operations.drops()
    assert listed.team == "lab"
    intent = await world.ended(await operations.approve("tiny"))
    assert intent.state == "done"
    model = world.store.model("tiny")
    assert (model.team, model.priority_ceiling) == ("lab", Priority.LOW)


async def test_an_approval_does_not_replace_the_model_of_another_team(
    world: World, operations: Operations
) -> None:
    await refused(world, "lab/tiny", weight=2.0)
    digest = str(reason(world.rejected / "tiny")["digest"])
    await drop(world, "prod/tiny")
    with pytest.raises(DropRejected, match="tiny belongs to team prod, and team lab cannot"):
        await operations.approve("tiny")
    assert world.store.rules.approvals(digest) == frozenset(), "nothing is allowed by it"
    assert await operations.intents() == []
    assert (world.rejected / "tiny" / "tiny" / "weights.pkl").exists()
    model = world.store.model("tiny")
    assert (model.team, model.version) == ("prod", 1)


async def test_a_refused_drop_that_is_ingested_by_path_stays_its_teams(
    world: World, operations: Operations
) -> None:
    await refused(world, "lab/tiny", weight=2.0)
    await drop(world, "prod/tiny")
    kept = world.rejected / "tiny" / "tiny"
    report = await world.launcher.ingest(path=str(kept))
    assert (report.outcome, report.details["rule"]) == ("rejected", "team")
    assert (kept / "weights.pkl").exists(), "it stays where it is"
    with pytest.raises(InputError, match="belongs to team lab, and cannot be ingested for prod"):
        await world.launcher.ingest(path=str(kept), team="prod")


async def test_whose_drop_is_meant_is_said_where_several_have_one(
    world: World, operations: Operations
) -> None:
    await refused(world, "lab/tiny")
    await refused(world, "prod/tiny", weight=2.0)
    await refused(world, "tiny", weight=3.0)
    with pytest.raises(InputError) as told:
        await operations.approve("tiny")
    assert str(told.value) == (
        "drops called 'tiny' of no team and team lab and team prod were rejected; say whose is "
        "meant: `--team TEAM`, or `--team ''` for that of no team"
    )
    with pytest.raises(InputError, match="no rejected drop of team other is called 'tiny'"):
        await operations.approve("tiny", team="other")
    assert await operations.intents() == []
    intent = await world.ended(await operations.approve("tiny", team="prod"))
    assert (intent.state, intent.parameters["team"]) == ("done", "prod")
    assert world.store.model("tiny").team == "prod"
    intent = await world.ended(await operations.approve("tiny", team=""))
    assert (intent.state, intent.parameters["team"]) == ("done", None)
    model = world.store.model("tiny")
    assert (model.team, model.version) == ("prod", 2), "an operator's drop leaves it to its team"


@pytest.mark.parametrize("folder", ["tiny", "tiny-2"])
async def test_the_drop_that_was_read_is_approved_and_none_that_came_later(
    world: World, operations: Operations, folder: str
) -> None:
    await refused(world, "lab/tiny")
    await refused(world, "lab/tiny", weight=2.0)
    read = str(reason(world.rejected / folder)["digest"])
    await world.ended(await operations.approve(folder))
    model = world.store.model("tiny")
    assert (model.digest, model.approvals) == (read, {"pickle"})


async def test_a_team_approves_nothing_in_the_repository(
    world: World, operations: Operations
) -> None:
    folder = world.services.repository.published / "tiny"
    risky_onnx(folder, "weights.pkl")
    report = await world.launcher.ingest(path=str(folder))
    assert report.outcome == "rejected"
    with pytest.raises(InputError, match="no rejected drop of team lab is called 'tiny'"):
        await admit(world.services, "tiny", (), team="lab")
    wanted = await admit(world.services, "tiny", ())
    assert wanted == Wanted(path=str(folder), name=None, team=None, priority_ceiling=None)
    assert wanted == await admit(world.services, "tiny", (), team="")


async def test_an_approved_drop_that_fails_returns_to_its_teams_folder(world: World) -> None:
    declare(world)
    await refused(world, "lab/tiny")
    repository = world.services.repository
    folder, kept = repository.find_rejected("tiny")
    staged = repository.stage(repository.readmit(folder), name="tiny", team=str(kept["team"]))
    repository.give_back(staged)
    assert (world.incoming / "lab" / "tiny" / "weights.pkl").exists()
    assert not (world.incoming / "tiny").exists()
