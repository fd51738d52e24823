"""A store has one service."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
import sqlalchemy as sa

from modelium.errors import InputError, StoreUnavailable
from modelium.store import Store, exclusive, lease, schema
from modelium.store.connection import connect
from modelium.store.lease import Held, Lease
from tests.modelium.store.conftest import ON_POSTGRESQL

on_postgresql = pytest.mark.parametrize("url", [ON_POSTGRESQL], indirect=True)


@pytest.fixture(autouse=True)
def looking_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exclusive, "LOOK_S", 0.0)


@pytest.fixture
def renewing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have leases renewed all the time; those of others have the same length as ever."""
    monkeypatch.setattr(exclusive, "RENEWAL_S", 0.0)


def opened(url: str) -> Store:
    return Store.open(url, now=lambda: 1.0)


@pytest.fixture
def engine(url: str) -> Iterator[sa.Engine]:
    made = connect(url)
    yield made
    made.dispose()


def rows(engine: sa.Engine) -> list[tuple[str, str, int]]:
    table = schema.leases.c
    with engine.begin() as tx:
        return [tuple(r) for r in tx.execute(sa.select(table.name, table.holder, table.epoch))]


def end(engine: sa.Engine) -> None:
    """Let all leases run out."""
    with engine.begin() as tx:
        tx.execute(sa.update(schema.leases).values(until=0.0))


@pytest.mark.usefixtures("renewing")
def test_a_second_service_on_a_store_is_refused_until_the_first_ends(url: str) -> None:
    with closing(opened(url)) as first, closing(opened(url)) as second:
        with (
            first.exclusive(),
            pytest.raises(
                InputError, match=r"^store\.url: another Modelium service.* uses "
            ) as told,
            second.exclusive(),
        ):
            raise AssertionError("never held twice")
        if url.startswith("postgresql"):
            assert f"({socket.gethostname()}, process {os.getpid()}, " in str(told.value)
            assert ":***@/" in str(told.value)
        else:
            assert f"service uses {url} as this node; stop it" in str(told.value)
        with second.exclusive():
            assert first.names() == set()  # reading is free


@on_postgresql
def test_the_lease_of_a_service_that_died_is_waited_for(
    url: str, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Lease(engine=engine, name="service", holder="dead").take() is None
    looks: list[float] = []

    class Clock:
        def wait(self, seconds: float) -> None:
            looks.append(seconds)
            if len(looks) == 3:
                end(engine)

    mine = Lease(engine=engine, name="service", holder="next")
    exclusive._take(engine, mine, Clock())  # type: ignore[arg-type]
    assert looks == [exclusive.LOOK_S] * 3
    assert rows(engine) == [("service", "next", 2)]


@on_postgresql
def test_a_service_whose_place_was_taken_writes_no_more_and_reads(
    url: str, engine: sa.Engine
) -> None:
    with closing(opened(url)) as first:
        with first.exclusive():
            first.events.append("before")
            end(engine)
            assert Lease(engine=engine, name="service", holder="other").take() is None
            said = r"^another Modelium service \(other\) has taken over the store postgresql://.*: stop one of them$"
            with pytest.raises(StoreUnavailable, match=said) as told:
                first.events.append("after")
            assert told.value.reason == "store-taken"
            assert [event.kind for event in first.events.newest()] == ["before"]
        assert rows(engine) == [("service", "other", 2)], "it releases what is its own"
        first.events.append("as nobody's service")


@on_postgresql
def test_a_lease_is_one_holders_until_it_ends_by_the_databases_clock(engine: sa.Engine) -> None:
    mine, other = (Lease(engine=engine, name="x", holder=h) for h in ("mine", "other"))
    with engine.begin() as tx:
        before = lease.database_time(tx)
    assert mine.take() is None
    held = other.take()
    assert isinstance(held, Held) and held.holder == "mine"
    assert before + lease.TTL_S <= held.until <= before + lease.TTL_S + 60
    assert not other.renew()
    other.release()
    assert other.take() == held
    assert mine.renew()
    renewed = other.take()
    assert renewed is not None and renewed.until > held.until
    with engine.begin() as tx:
        assert (mine.lost_to(tx), other.lost_to(tx)) == (None, "mine")
    end(engine)
    assert mine.renew(), "nobody else has taken it"
    assert other.take() is not None
    mine.release()
    assert other.take() is None
    assert not mine.renew()
    assert rows(engine) == [("x", "other", 2)]


@on_postgresql
@pytest.mark.usefixtures("renewing")
def test_a_service_goes_on_renewing_its_lease(url: str, engine: sa.Engine) -> None:
    with closing(opened(url)) as store, store.exclusive():
        end(engine)
        other = Lease(engine=engine, name="service", holder="other")
        with engine.connect() as tx:
            until = 0.0
            while not until:  # the service renews it on a thread of its own
                until = tx.scalar(sa.select(schema.leases.c.until)) or 0.0
                tx.rollback()
        assert other.take() is not None


class Impatient:
    """Waits for nobody."""

    def wait(self, _seconds: float) -> None:
        raise TimeoutError


@on_postgresql
def test_a_machine_succeeds_its_own_killed_service_at_once_and_others_wait(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "Event", Impatient)
    dead = Lease(engine=engine, name="node n", holder="machine-1, process 7, 0a1b")
    assert dead.take() is None
    for other in ("machine", "machine-10", None):  # a name that begins alike is another machine's
        with pytest.raises(TimeoutError), exclusive._postgresql(engine, "n", other):
            raise AssertionError("not its heir")
    monkeypatch.undo()
    with exclusive._postgresql(engine, "n", "machine-1"):
        ((name, holder, epoch),) = rows(engine)
        assert (name, epoch) == ("node n", 2)
        assert holder.startswith(f"machine-1, process {os.getpid()}, ")
        assert not dead.renew()


@on_postgresql
def test_nodes_have_a_service_each(url: str, engine: sa.Engine) -> None:
    with (
        closing(opened(url)) as one,
        closing(opened(url)) as two,
        one.exclusive("a"),
        two.exclusive("b"),
    ):
        assert sorted(name for name, *_ in rows(engine)) == ["node a", "node b"]
        one.events.append("x")
        two.events.append("y")


@on_postgresql
def test_a_lease_is_renewed_and_looked_at_while_somebody_writes(engine: sa.Engine) -> None:
    mine, other = (Lease(engine=engine, name="x", holder=h) for h in ("mine", "other"))
    assert mine.take() is None
    with engine.begin() as tx:
        tx.exec_driver_sql("UPDATE meta SET value = 7")
        assert mine.renew()
        held = other.others()
        assert held is not None and held.holder == "mine"
        assert mine.others() is None
    mine.release()
    assert other.others() is None


@on_postgresql
def test_a_service_keeps_the_lease_that_a_failover_has_forgotten(
    store: Store, engine: sa.Engine
) -> None:
    """The standby lacks the last second, and has the row of the node's life before."""
    before, now = (Lease(engine=engine, name="node a", holder=f"a {n}") for n in "12")
    before.take()
    before.release()
    with engine.begin() as tx:
        [row] = tx.execute(sa.select(schema.leases)).mappings().all()
    now.take()
    with engine.begin() as tx:
        tx.execute(sa.update(schema.leases).values(**row))
        assert now.lost_to(tx) is None
    assert not now.renew()
    now.regain()
    assert rows(engine) == [("node a", "a 2", 2)]
    assert now.renew()
    before.regain()  # one that was really taken stays so
    assert rows(engine) == [("node a", "a 2", 2)]
