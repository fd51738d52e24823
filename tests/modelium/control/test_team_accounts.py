"""GPU-seconds are counted from one snapshot to the next."""

from __future__ import annotations

from dataclasses import replace

import pytest

from modelium.control.loop import Loop
from modelium.control.team_accounts import TeamAccounts
from modelium.models import Fleet
from modelium.policy import TeamRules
from modelium.stages.snapshot import digest, snapshot
from tests.fakes.fleets import fleet, loaded
from tests.modelium.conftest import World
from tests.modelium.stages.rows import ready, registered


def half_a_device() -> Fleet:
    return fleet(loaded("a", "n/g0", gib=40, team="lab"), loaded("b", "n/g1", gib=8))


async def test_what_is_held_counts_for_as_long_as_it_is(world: World) -> None:
    world.rule(teams={"lab": TeamRules()})
    accounts, usage = TeamAccounts(services=world.services), world.store.team_usage
    await accounts.count(half_a_device())
    assert usage.of_the_last_day() == {}, "nobody knows what was before"
    world.clock.advance(10)
    await accounts.count(half_a_device())
    assert usage.of_the_last_day() == pytest.approx({"lab": 5.0, "": 1.0})
    world.clock.advance(2)
    await accounts.count(half_a_device())
    assert usage.of_the_last_day() == pytest.approx({"lab": 6.0, "": 1.2})


async def test_without_teams_nothing_is_counted(world: World) -> None:
    accounts = TeamAccounts(services=world.services)
    for _ in range(2):
        await accounts.count(half_a_device())
        world.clock.advance(10)
    assert world.store.team_usage.of_the_last_day() == {}


async def test_the_time_without_teams_is_not_counted_later(world: World) -> None:
    accounts = TeamAccounts(services=world.services)
    for teams in ({"lab": TeamRules()}, {}, {"lab": TeamRules()}):
        world.services.policy = world.services.policy.model_copy(update={"teams": teams})
        await accounts.count(half_a_device())
        world.clock.advance(10)
    assert world.store.team_usage.of_the_last_day() == {}


@pytest.mark.unfinished("models without files")
async def test_the_loop_counts_and_snapshots_show_it(world: World) -> None:
    registered(world, team="lab")
    ready(world, held=2 * 1024**3)
    world.services = replace(world.services)
    loop = Loop(services=world.services, signals=world.signals)
    await loop.tick()
    assert (await snapshot(world.services)).used == {}
    world.services.policy = world.services.policy.model_copy(update={"teams": {"x": TeamRules()}})
    await loop.tick()
    world.clock.advance(8)
    await loop.tick()
    found = await snapshot(world.services)
    assert found.used == pytest.approx({"lab": 2.0}, rel=1e-3)
    assert digest(found) != digest(found.model_copy(update={"used": {}}))
