"""Departures are stored with their decision, and with when somebody asked for their model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config as AlembicConfig

from agents.replay.simulated_fleet import SimulatedClock
from modelium.lifecycle import ModelState
from modelium.models import (
    Departure,
    DepartureKind,
    Load,
    Plan,
    Priority,
    Queue,
    RuntimeName,
    Trigger,
)
from modelium.policy.departures import was_wrong
from modelium.store import Store
from modelium.store.connection import MIGRATIONS, connect
from modelium.store.departures import KEPT_S, READ

K = DepartureKind


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock()


def register(store: Store, *names: str) -> None:
    for name in names:
        store.register(
            name,
            path=Path("/models") / name,
            digest=name,
            team=None,
            priority=Priority.LOW,
            priority_ceiling=Priority.HIGH,
            pinned=False,
        )
        store.states.mark_analyzed(name)


def accept(
    store: Store, *departures: Departure, trigger: Trigger = Trigger.REVIEW, **plan: Any
) -> str:
    made = Plan(
        author="llm", trigger=trigger, departures=departures, revision=store.revision(), **plan
    )
    return store.accept(made, snapshot_digest="", trace={}).id


def departure(kind: DepartureKind = K.QUEUE, model: str = "a", until: float = 0.0) -> Departure:
    return Departure(kind=kind, model=model, price_s=30.5, until=until)


def paid(until: float) -> Departure:
    """One that is wrong if ``a`` is asked for, right if ``b`` is."""
    one = departure(K.EVICT, "a", until)
    return one.model_copy(update={"wrong_if": ("a",), "right_if": ("b",)})


def demanded(name: str) -> dict[str, Any]:
    load = Load(model=name, runtime=RuntimeName.VLLM, devices=(), reserve={}, reason="")
    return {"actions": (load,), "subject": name}


def test_departures_of_accepted_plans_are_read_newest_first(
    store: Store, clock: SimulatedClock
) -> None:
    first = departure(until=clock.time() + 600)
    second = departure(K.EVICT, "b", clock.time() + 5).model_copy(
        update={"beneficiary": "a", "shadow": True, "right_if": ("a",), "wrong_if": ("b", "c")}
    )
    began = clock.time()
    accept(store, first)
    clock.now += 10.0
    accept(store, second, departure(K.DEVICE, "a", clock.time()))
    found = store.departures.since(began - 1)
    assert found == (
        departure(K.DEVICE, "a", began + 10).model_copy(
            update={"at": began + 10, "seen_until": began + 10}
        ),
        second.model_copy(update={"at": began + 10, "seen_until": began + 10}),
        first.model_copy(update={"at": began, "seen_until": began}),
    )
    assert store.departures.since(began) == found[:2]
    assert store.departures.since(began + 10) == ()


def test_a_decision_is_found_by_the_models_of_its_departures(
    store: Store, clock: SimulatedClock
) -> None:
    made = accept(store, departure(until=clock.time() + 600))
    assert [d.id for d in store.decisions.newest(model="a")] == [made]
    assert store.decisions.get(made).plan.departures == (departure(until=clock.time() + 600),)


@pytest.mark.parametrize(
    ("trigger", "name", "asked"),
    [
        (Trigger.DEMAND, "a", True),
        (Trigger.OPERATOR, "a", True),
        (Trigger.SWEEP, "a", False),
        (Trigger.DEMAND, "b", False),
    ],
)
def test_the_first_load_that_somebody_asked_for_is_noted(
    store: Store, clock: SimulatedClock, trigger: Trigger, name: str, asked: bool
) -> None:
    register(store, "a", "b")
    began = clock.time()
    accept(store, paid(began + 600))
    clock.now += 60.0
    accept(store, trigger=trigger, **demanded(name))
    (found,) = store.departures.since(0)
    requested = trigger is not Trigger.SWEEP
    assert found.asked_at == (clock.time() if asked else None)
    assert found.needed_at == (clock.time() if requested and name == "b" else None)
    assert found.seen_until == began


def test_somebody_who_asked_and_has_to_wait_for_room_is_noted(
    store: Store, clock: SimulatedClock
) -> None:
    register(store, "a")
    accept(store, paid(clock.time() + 600))
    clock.now += 60.0
    accept(store, trigger=Trigger.DEMAND, actions=(Queue(model="a", reason=""),), subject="a")
    assert store.departures.since(0)[0].asked_at == clock.time()


def test_departures_of_one_kind_leave_room_for_those_of_another(
    store: Store, clock: SimulatedClock
) -> None:
    accept(store, departure(K.EVICT, "first", until=0.0))
    clock.now += 1.0
    accept(store, *(departure(K.DEVICE, f"m{i}", until=0.0) for i in range(READ)))
    assert store.departures.since(0)[-1].model == "first"


def test_a_load_after_its_time_is_no_sign_against_a_departure(
    store: Store, clock: SimulatedClock
) -> None:
    register(store, "a")
    accept(store, paid(clock.time() + 60))
    clock.now += 60.0
    accept(store, trigger=Trigger.DEMAND, **demanded("a"))
    assert store.departures.since(0)[0].asked_at is None


def test_what_is_asked_for_while_it_is_watched_is_noted(
    store: Store, clock: SimulatedClock
) -> None:
    began = clock.time()
    accept(store, paid(began + 60))
    revision = store.revision()

    def note(since: float, at: float, **asked: float) -> tuple[float | None, float | None, float]:
        times = {name: began + s for name, s in asked.items()}
        store.departures.note_requests(times, since=began + since, at=began + at)
        (found,) = store.departures.since(0)
        return found.asked_at, found.needed_at, found.seen_until - began

    assert note(-5, 5, a=-1, b=0) == (None, None, 5)
    assert note(5, 15, b=7) == (None, began + 7, 15)
    assert note(15, 70, a=60, b=65) == (began + 60, began + 7, 60)
    assert note(70, 80, a=75) == (began + 60, began + 7, 60)
    assert store.revision() == revision


def test_a_time_that_was_not_watched_whole_is_void(store: Store, clock: SimulatedClock) -> None:
    began = clock.time()
    accept(store, paid(began + 60))
    store.departures.note_requests({}, since=began, at=began + 10)
    store.departures.note_requests({"b": began + 20}, since=began + 30, at=began + 40)
    store.departures.note_requests({"b": began + 20}, since=began + 40, at=began + 70)
    (found,) = store.departures.since(0)
    assert (found.needed_at, found.seen_until, was_wrong(found)) == (None, began + 10, None)


def test_departures_are_read_and_kept_within_bounds(store: Store, clock: SimulatedClock) -> None:
    accept(store, *(departure(model=f"m{i}", until=0.0) for i in range(READ + 1)))
    assert len(store.departures.since(0)) == READ
    clock.now += KEPT_S
    store.prune()
    assert len(store.departures.since(0)) == READ
    clock.now += 1.0
    store.prune()
    assert store.departures.since(0) == ()


def test_departures_of_the_future_are_forgotten(store: Store, clock: SimulatedClock) -> None:
    accept(store, departure(until=clock.time() + 600))
    store.clamp_times(longest_pause_s=1.0)
    assert len(store.departures.since(0)) == 1
    clock.now -= 1.0
    store.clamp_times(longest_pause_s=1.0)
    assert store.departures.since(0) == ()


def test_a_store_of_before_departures_keeps_its_decisions(
    empty_url: str, clock: SimulatedClock
) -> None:
    url = empty_url
    config = AlembicConfig()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = connect(url)
    plan = Plan(author="rules", trigger=Trigger.SWEEP).model_dump(
        mode="json", exclude={"departures"}
    )
    with engine.begin() as tx:
        config.attributes["connection"] = tx
        command.upgrade(config, "0008")
        document = {"id": "d1", "at": 5.0, "plan": plan, "snapshot_digest": "x"}
        table = sa.table(
            "decisions", *(sa.column(n) for n in ("id", "at")), sa.column("document", sa.JSON)
        )
        tx.execute(sa.insert(table).values(id="d1", at=5.0, document=document))
    engine.dispose()
    store = Store.open(url, now=clock.time)
    (old,) = store.decisions.newest()
    assert (old.id, old.plan.departures) == ("d1", ())
    register(store, "a")
    accept(store, departure(until=clock.time() + 1))
    assert [d.model for d in store.departures.since(0)] == ["a"]
    assert store.model("a").state is ModelState.ANALYZED
    store.close()


def test_a_store_of_before_trust_keeps_its_departures_unjudged(
    tmp_path: Path, clock: SimulatedClock
) -> None:
    url = f"sqlite:///{tmp_path / 'old.db'}"
    config = AlembicConfig()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = connect(url)
    now = clock.time()
    row = {
        "decision": "d1", "kind": "evict", "model": "a", "beneficiary": "b",
        "at": now - 9, "until": now + 600, "price_s": 30.0, "asked_at": now - 5,
    }  # fmt: skip
    with engine.begin() as tx:
        config.attributes["connection"] = tx
        command.upgrade(config, "0012")
        table = sa.table("departures", *(sa.column(name) for name in row))
        tx.execute(sa.insert(table).values(**row))
    engine.dispose()
    store = Store.open(url, now=clock.time)
    store.departures.note_requests({"a": now, "b": now}, since=now - 9, at=now + 700)
    (old,) = store.departures.since(0)
    assert old == Departure(
        kind=K.EVICT, model="a", beneficiary="b", at=now - 9, until=now + 600, price_s=30.0
    )
    assert was_wrong(old) is None
    store.close()
