"""One node plans, whatever the others believe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from threading import Event

import pytest
import sqlalchemy as sa

from modelium.errors import NotPlanner
from modelium.lifecycle import ModelState
from modelium.models import Load, NodeReport, Plan, RuntimeName, Trigger
from modelium.store import Store, planner_lease, schema
from modelium.store.lease import Lease, database_time
from modelium.store.planner_lease import LOOK_S, NAME, TTL_S
from tests.modelium.store.conftest import ON_POSTGRESQL
from tests.modelium.store.test_nodes import silence
from tests.modelium.store.test_store import register

on_postgresql = pytest.mark.parametrize("url", [ON_POSTGRESQL], indirect=True)


@pytest.fixture
def looking_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a process that is stopped: its thread looks at the start, and never again."""
    monkeypatch.setattr(planner_lease, "LOOK_S", 3600.0)


@contextmanager
def opened(url: str) -> Iterator[Store]:
    with closing(Store.open(url, now=lambda: 1.0)) as store:
        yield store


class Changes:
    """Counts them, and lets a test wait for the next."""

    def __init__(self) -> None:
        self.seen = 0
        self.next = Event()

    def __call__(self) -> None:
        self.seen += 1
        self.next.set()


def plan(store: Store, name: str) -> None:
    action = Load(
        model=name, runtime=RuntimeName.VLLM, devices=("a/0",), reserve={"a/0": 5}, reason="asked"
    )
    made = Plan(
        author="rules", trigger=Trigger.OPERATOR, actions=(action,), revision=store.revision()
    )
    store.accept(made, snapshot_digest="d", trace={})


def run_out(store: Store) -> None:
    with store._engine.begin() as tx:
        tx.execute(sa.update(schema.leases).where(schema.leases.c.name == NAME).values(until=0.0))


def lease(store: Store) -> tuple[str, int, float]:
    table = schema.leases
    with store._engine.begin() as tx:
        row = tx.execute(sa.select(table).where(table.c.name == NAME)).one()
        return row.holder, row.epoch, row.until - database_time(tx)


@pytest.mark.usefixtures("looking_once")
def test_the_only_node_plans(url: str) -> None:
    with opened(url) as store, store.planner.sought("a", Changes()):
        assert store.planner.epoch is not None
        register(store, "m")
        plan(store, "m")
        assert store.decisions.newest()[0].epoch == store.planner.epoch


@on_postgresql
@pytest.mark.usefixtures("looking_once")
def test_a_second_node_stands_by_and_its_plans_are_refused(url: str) -> None:
    changes = Changes()
    with opened(url) as a, opened(url) as b, a.planner.sought("a", Changes()):
        register(b, "m")
        before = b.view()
        with b.planner.sought("b", changes), pytest.raises(NotPlanner, match="another node plans"):
            plan(b, "m")
        assert (b.planner.epoch, changes.seen, b.view()) == (None, 0, before)
        plan(a, "m")
        holder, epoch, left_s = lease(a)
        assert (holder, epoch) == ("a", 1)
        assert TTL_S - 60 < left_s <= TTL_S
    assert TTL_S + LOOK_S < 15.0, "another node plans 15 s after the last sign of life"


@on_postgresql
@pytest.mark.usefixtures("looking_once")
def test_the_next_node_plans_at_once_after_a_clean_end(url: str) -> None:
    with opened(url) as a, opened(url) as b:
        with a.planner.sought("a", Changes()):
            pass
        with b.planner.sought("b", Changes()):
            assert b.planner.epoch == 2
        register(a, "m")
        with pytest.raises(NotPlanner):
            plan(a, "m")


@on_postgresql
@pytest.mark.usefixtures("looking_once")
def test_a_planner_that_was_stopped_cannot_act_when_it_wakes(url: str) -> None:
    """Its thread has not noticed: it holds what it was told last."""
    changes = Changes()
    with opened(url) as a, opened(url) as b, a.planner.sought("a", changes):
        register(a, "m")
        run_out(b)
        plan(a, "m")  # nobody has taken it
        a.states.requeue("m", reason="again")
        with b.planner.sought("b", Changes()):
            held = [a.planner.epoch, b.planner.epoch]
            with pytest.raises(NotPlanner):
                plan(a, "m")
            assert [*held, a.planner.epoch] == [1, 2, None]
            a.nodes.join("n", identity="i", token=None, report=NodeReport())
            silence(a, "n")
            with pytest.raises(NotPlanner):
                a.nodes.relieve("n", ["m"], reason="r")
            assert a.model("m").state is ModelState.QUEUED
            plan(b, "m")
            assert b.decisions.newest()[0].epoch == 2
        assert changes.seen == 1


@on_postgresql
@pytest.mark.usefixtures("looking_once")
def test_a_node_is_told_that_another_one_plans_though_a_plan_noticed_it_first(url: str) -> None:
    changes = Changes()
    with opened(url) as a, opened(url) as b, a.planner.sought("a", changes):
        run_out(b)
        with b.planner.sought("b", Changes()):
            register(a, "m")
            with pytest.raises(NotPlanner):
                plan(a, "m")
            assert a.planner._lease is not None
            a.planner._step(a.planner._lease, changes)
            assert (changes.seen, a.planner.epoch) == (2, None)


@on_postgresql
def test_a_node_that_stands_by_takes_over_when_the_lease_runs_out(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner_lease, "LOOK_S", 0.0)
    changes = Changes()
    with opened(url) as a, opened(url) as b:
        assert Lease(engine=a._engine, name=NAME, holder="a, which was killed").take() is None
        with b.planner.sought("b", changes):
            before = b.planner.epoch
            run_out(a)
            assert changes.next.wait(60)
            assert (before, b.planner.epoch, changes.seen) == (None, 2, 1)
            holder, _, left_s = lease(a)
            assert (holder, left_s > 0) == ("b", True)


@on_postgresql
@pytest.mark.usefixtures("looking_once")
def test_a_lease_that_is_taken_while_a_plan_is_refused_is_kept(url: str) -> None:
    """The plan read an older epoch before it was refused."""
    with opened(url) as a, a.planner.sought("a", Changes()):
        assert a.planner._lease is not None

        class Taken:
            def is_held(self, _tx: object) -> bool:
                a.planner._epoch = 9  # by the thread that looks
                return False

        mine, a.planner._lease = a.planner._lease, Taken()  # type: ignore[assignment]
        with pytest.raises(NotPlanner), a._engine.begin() as tx:
            a.planner.check(tx)
        a.planner._lease = mine
        assert a.planner.epoch == 9
