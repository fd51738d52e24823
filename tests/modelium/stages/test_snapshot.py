"""A snapshot shows store, devices, runtimes and traffic of one moment."""

from __future__ import annotations

from modelium.models import GIB, Departure, DepartureKind, Plan, Traffic, Trigger
from modelium.policy.departures import REMEMBERED_S
from modelium.stages.snapshot import HISTORY_HOURS, digest, inventory, snapshot, with_history
from tests.fakes import fleets
from tests.fakes.devices import CPU
from tests.modelium.conftest import World

DEPARTURE = Departure(kind=DepartureKind.QUEUE, model="tiny", price_s=1.0, until=9.0)


async def test_a_snapshot_shows_the_fleet_of_now(world: World) -> None:
    await world.load()
    await world.request()
    fleet = await snapshot(world.services)
    assert fleet.revision == world.store.revision()
    assert [m.name for m in fleet.models] == ["tiny"]
    assert fleet.models[0].traffic.completed == 1
    assert [b.model for b in fleet.bookings] == ["tiny"]
    assert fleet.devices == (CPU,)
    assert [r.healthy for r in fleet.runtimes] == [True]


async def test_an_inventory_takes_devices_that_were_read_already(world: World) -> None:
    known = (CPU.model_copy(update={"free_bytes": GIB}),)
    fleet = await inventory(world.services, devices=known)
    assert fleet.devices == known


async def test_departures_of_late_are_read_where_an_llm_may_make_them(
    world: World,
) -> None:
    plan = Plan(
        author="llm",
        trigger=Trigger.REVIEW,
        departures=(DEPARTURE,),
        revision=world.store.revision(),
    )
    world.store.accept(plan, snapshot_digest="", trace={})
    assert (await snapshot(world.services)).departures == ()
    world.rule(departures={DepartureKind.EVICT: 1.0})
    assert (await snapshot(world.services)).departures == ()
    world.rule(departures={DepartureKind.EVICT: 1.0, DepartureKind.QUEUE: 1.0})
    (found,) = (await snapshot(world.services)).departures
    assert found.model_copy(update={"at": 0.0, "seen_until": 0.0}) == DEPARTURE
    world.clock.advance(REMEMBERED_S)
    assert (await snapshot(world.services)).departures == ()


async def test_requests_by_the_hour_are_added_from_the_history(world: World) -> None:
    await world.load()
    world.store.history.record_traffic({"tiny": Traffic(completed=7, last_request_at=1.0)})
    fleet = await with_history(world.services, await snapshot(world.services))
    assert fleet.models_by_name["tiny"].traffic.hours == (0,) * (HISTORY_HOURS - 1) + (7,)


def test_equal_fleets_have_one_digest_and_others_another() -> None:
    fleet = fleets.fleet(fleets.model("m"))
    assert digest(fleet) == digest(fleets.fleet(fleets.model("m")))
    changes = (
        fleet.model_copy(update={"revision": fleet.revision + 1}),
        fleet.model_copy(update={"at": fleet.at + 1}),
        fleet.model_copy(update={"models": ()}),
        fleet.model_copy(update={"devices": ()}),
        fleet.model_copy(update={"runtimes": ()}),
        fleet.model_copy(update={"departures": (DEPARTURE,)}),
    )
    assert len({digest(fleet), *map(digest, changes)}) == 1 + len(changes)
