"""The machines that share a store: how they join, and what becomes of what a silent one holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from modelium.errors import InputError, StalePlan
from modelium.lifecycle import ModelState
from modelium.models import (
    Deployment,
    Load,
    NodeReport,
    Plan,
    RuntimeName,
    Setbacks,
    Traffic,
    Trigger,
    Unload,
)
from modelium.models.nodes import SILENT_S
from modelium.store import Store, schema
from modelium.store.nodes import TOKEN_PREFIX, TOKEN_S, digest
from tests.fakes.clock import FakeClock
from tests.modelium.store.conftest import ON_POSTGRESQL
from tests.modelium.store.test_store import register

REPORT = NodeReport(address="https://a:8080", version="1", labels={"zone": "x"})


def join(store: Store, *names: str) -> None:
    for name in names:
        token = store.nodes.issue_token() if store.nodes.all() else None
        store.nodes.join(name, identity=f"of {name}", token=token, report=NodeReport())


def silence(store: Store, *names: str, seconds: float = SILENT_S + 1) -> None:
    table = schema.nodes
    with store._engine.begin() as tx:
        earlier = {"seen_at": table.c.seen_at - seconds}
        tx.execute(sa.update(table).where(table.c.name.in_(names)).values(**earlier))


def load(store: Store, name: str, *devices: str) -> None:
    register(store, name)
    action = Load(
        model=name, runtime=RuntimeName.VLLM, devices=devices,
        reserve=dict.fromkeys(devices, 5), reason="asked",
    )  # fmt: skip
    accept(store, action)


def accept(store: Store, *actions: Load | Unload) -> None:
    plan = Plan(
        author="rules", trigger=Trigger.OPERATOR, actions=actions, revision=store.revision()
    )
    store.accept(plan, snapshot_digest="d", trace={})


def deployed(store: Store, name: str) -> Deployment:
    found = store.model(name).deployment
    assert found is not None
    return found


def ready(store: Store, name: str) -> None:
    store.states.mark_ready(name, deployed(store, name))


# --- joining ------------------------------------------------------------------------------


def test_the_first_machine_needs_no_token_and_comes_back_as_itself(store: Store) -> None:
    assert store.nodes.join("a", identity="i", token=None, report=REPORT)
    silence(store, "a")
    store.nodes.set_state("a", "cordoned")
    assert not store.nodes.join("a", identity="i", token=None, report=REPORT)
    (node,) = store.nodes.all()
    assert (node.name, node.state, node.report, node.silent) == ("a", "cordoned", REPORT, False)
    assert store.nodes.identities() == {"i": "a"}


def test_another_machine_joins_with_a_token_once(store: Store) -> None:
    join(store, "a")
    with pytest.raises(InputError, match=r"has not joined .*; make a token with `modelium nodes "):
        store.nodes.join("b", identity="b", token=None, report=REPORT)
    with pytest.raises(InputError, match="join_token: unknown, used or expired"):
        store.nodes.join("b", identity="b", token="mdj_made-up", report=REPORT)
    token = store.nodes.issue_token()
    assert token.startswith(TOKEN_PREFIX)
    assert store.nodes.join("b", identity="b", token=token, report=REPORT)
    with pytest.raises(InputError, match="used or expired"):
        store.nodes.join("c", identity="c", token=token, report=REPORT)
    assert [node.name for node in store.nodes.all()] == ["a", "b"]


def test_a_token_ends_after_a_day_and_the_store_has_only_its_hash(store: Store) -> None:
    join(store, "a")
    token, table = store.nodes.issue_token(), schema.join_tokens
    with store._engine.begin() as tx:
        assert tx.scalar(sa.select(table.c.hash)) == digest(token) != token
        tx.execute(sa.update(table).values(until=table.c.until - TOKEN_S))
    with pytest.raises(InputError, match="used or expired"):
        store.nodes.join("b", identity="b", token=token, report=REPORT)
    store.nodes.issue_token()
    with store._engine.begin() as tx:
        assert tx.scalar(sa.select(sa.func.count()).select_from(table)) == 1


def test_a_taken_name_takes_a_token_and_its_copies_are_gone(store: Store) -> None:
    join(store, "a", "b")
    for name in ("a", "b"):
        store.nodes.note_copies(name, [("m", 1)])
    store.nodes.set_state("a", "draining")
    with pytest.raises(InputError, match="joined this store as 'a', or this one lost its state"):
        store.nodes.join("a", identity="new", token=None, report=REPORT)
    assert store.nodes.copies() == {("m", 1): frozenset("ab")}
    token = store.nodes.issue_token()
    assert store.nodes.join("a", identity="new", token=token, report=REPORT)
    assert store.nodes.copies() == {("m", 1): frozenset("b")}
    assert store.nodes.all()[0].state == "draining", "what the operator set"
    assert not store.nodes.beat("a", identity="of a", report=REPORT), "it was replaced"
    assert store.nodes.identities() == {"new": "a", "of b": "b"}


# --- heartbeats ---------------------------------------------------------------------------


def test_a_node_is_what_it_said_last_and_silent_after_a_while(store: Store) -> None:
    join(store, "a", "b")
    store.nodes.all()
    fresh = REPORT.model_copy(update={"activity": "loads m"})
    assert store.nodes.beat("a", identity="of a", report=fresh)
    assert store.nodes.all()[0].report == fresh
    silence(store, "a", seconds=SILENT_S - 5)
    assert not store.nodes.all()[0].silent
    silence(store, "a", seconds=6)
    a, b = store.nodes.all()
    assert (a.silent, a.placeable, b.silent, b.placeable) == (True, False, False, True)
    assert SILENT_S < a.silent_s < SILENT_S + 60


def test_the_state_is_the_operators_and_makes_plans_stale(store: Store) -> None:
    join(store, "a")
    before = store.revision()
    store.nodes.set_state("a", "draining")
    assert (store.nodes.all()[0].state, store.revision()) == ("draining", before + 1)
    store.nodes.beat("a", identity="of a", report=REPORT)
    assert store.nodes.all()[0].state == "draining"
    with pytest.raises(InputError, match="no node is called 'x'; `modelium nodes` lists them"):
        store.nodes.set_state("x", "active")


# --- a silent node ------------------------------------------------------------------------


def coming(store: Store) -> None:
    load(store, "m", "a/0", "a/1")


def there(store: Store) -> None:
    coming(store)
    ready(store, "m")


def draining(store: Store) -> None:
    there(store)
    accept(store, Unload(model="m", reason="idle"))


def unloading(store: Store) -> None:
    draining(store)
    store.states.start_unloading("m", reason="idle")


STATES: list[tuple[Callable[[Store], None], ModelState]] = [
    (coming, ModelState.LOADING),
    (there, ModelState.READY),
    (draining, ModelState.DRAINING),
    (unloading, ModelState.UNLOADING),
]


@pytest.mark.parametrize(("bring", "state"), STATES)
def test_a_silent_node_is_relieved_of_a_model_that_is_wanted(
    store: Store, bring: Callable[[Store], None], state: ModelState
) -> None:
    join(store, "a", "b")
    bring(store)
    load(store, "other", "a/0")
    was = store.model("m").deployment
    assert store.model("m").state is state
    silence(store, "a")
    revision = store.revision()
    assert store.nodes.relieve("a", ["m", "none"], reason="a is silent") == ("m",)
    model = store.model("m")
    assert (model.state, model.reason, model.deployment) == ("queued", "a is silent", None)
    assert model.queued_at is not None
    assert [(b.model, b.device) for b in store.view()[2]] == [("other", "a/0")]
    assert store.revision() == revision + 1
    assert store.nodes.strays("a") == (was,)
    assert store.nodes.strays("b") == ()
    assert store.nodes.relieve("a", ["m"], reason="again") == ()


@pytest.mark.parametrize("node", ["b", "none"])
def test_nothing_is_taken_from_a_node_that_is_there(store: Store, node: str) -> None:
    join(store, "a", "b")
    load(store, "m", "b/0")
    silence(store, "a")
    assert store.nodes.relieve(node, ["m"], reason="r") == ()
    assert store.model("m").state is ModelState.LOADING
    assert store.nodes.strays("b") == ()


def test_a_node_that_comes_back_takes_no_model_before_it_has_cleared_its_strays(
    store: Store,
) -> None:
    join(store, "a")
    for name in ("m", "n"):
        load(store, name, f"a/{name}")
    silence(store, "a")
    store.nodes.relieve("a", ["m", "n"], reason="r")
    store.nodes.beat("a", identity="of a", report=REPORT)
    (node,) = store.nodes.all()
    assert (node.silent, node.strays, node.placeable) == (False, 2, False)
    store.nodes.cleared("a", "m")
    assert [stray.model for stray in store.nodes.strays("a")] == ["n"]
    revision = store.revision()
    store.nodes.cleared("a", "n")
    assert store.nodes.all()[0].placeable
    assert store.revision() == revision + 1, "plans that did not count on it are stale"


def test_all_nodes_of_a_model_clear_their_parts(store: Store) -> None:
    join(store, "a", "b", "c")
    load(store, "m", "b/0", "a/0", "a/1")
    silence(store, "a")
    assert store.nodes.relieve("a", ["m"], reason="r") == ("m",)
    assert [node.strays for node in store.nodes.all()] == [1, 1, 0]
    assert [node.placeable for node in store.nodes.all()] == [False, False, True]
    assert store.nodes.strays("a") == store.nodes.strays("b")


WRITES: dict[str, Callable[[Store, Deployment], Any]] = {
    "ready": lambda s, was: s.states.mark_ready("m", was),
    "moved": lambda s, was: s.states.mark_moved(was),
    "unloading": lambda s, was: s.states.start_unloading("m", reason="r"),
    "kept": lambda s, was: s.states.cancel_eviction("m", reason="r"),
    "released": lambda s, was: s.states.release("m", reason="r", evicted=False),
    "requeued": lambda s, was: s.states.requeue("m", reason="r"),
    "failed": lambda s, was: s.states.fail(
        "m", reason="r", failures=1, retry_at=None, setbacks=Setbacks()
    ),
    "cancelled": lambda s, was: s.states.cancel_load("m", reason="r"),
}


@pytest.mark.parametrize("url", [ON_POSTGRESQL], indirect=True)
@pytest.mark.parametrize("write", list(WRITES))
def test_what_a_relieved_node_still_does_changes_nothing(store: Store, write: str) -> None:
    """As a load that ends on it after the model was queued again, or placed elsewhere."""
    join(store, "a", "b")
    store.act_as("a")
    load(store, "m", "a/0")
    was = deployed(store, "m")
    silence(store, "a")
    store.nodes.relieve("a", ["m"], reason="r")
    for place in (None, "b/0"):
        if place:
            load(store, "m", place)
        before = store.view()
        with pytest.raises(StalePlan, match="m was taken from a, which was silent"):
            WRITES[write](store, was)
        assert store.view() == before
    store.act_as("b")
    ready(store, "m")


@pytest.mark.parametrize("url", [ON_POSTGRESQL], indirect=True)
def test_a_node_may_order_another_one_to_end_a_load_but_not_what_is_ready(store: Store) -> None:
    join(store, "a", "b")
    load(store, "m", "b/0")
    load(store, "n", "b/0")
    ready(store, "n")
    store.act_as("a")
    assert store.states.order_unloading("m", reason="r").state is ModelState.UNLOADING
    assert store.states.order_unloading("n", reason="r").state is ModelState.READY
    store.act_as("b")
    assert store.states.release("m", reason="r", evicted=False).state is ModelState.UNLOADED


@pytest.mark.parametrize("url", [ON_POSTGRESQL], indirect=True)
def test_a_load_changes_nothing_of_a_later_one_on_the_same_node(
    store: Store, clock: FakeClock
) -> None:
    join(store, "a")
    store.act_as("a")
    load(store, "m", "a/0")
    was = deployed(store, "m")
    store.states.requeue("m", reason="r")
    clock.advance(1.0)
    load(store, "m", "a/1")
    later = deployed(store, "m")
    for write in ("moved", "ready"):
        with pytest.raises(StalePlan, match="m was taken from a"):
            WRITES[write](store, was)
    assert deployed(store, "m") == later


# --- removal ------------------------------------------------------------------------------


def test_a_silent_node_is_removed_with_all_that_is_its_own(store: Store) -> None:
    join(store, "a", "b")
    for name in ("m", "leaving", "over-both", "elsewhere"):
        places = {"over-both": ("b/0", "a/0"), "elsewhere": ("b/0",)}
        load(store, name, *places.get(name, ("a/0",)))
    ready(store, "leaving")
    accept(store, Unload(model="leaving", reason="idle"))
    for node in ("a", "b"):
        store.act_as(node)
        store.history.record_traffic({"m": Traffic(completed=1)})
        store.nodes.note_copies(node, [("m", 1)])
        store.questions.ask(node, node=node, document={})
    store.act_as("")
    for name, told in (("a", "a is there: stop Modelium on it first"), ("x", "no node is called")):
        with pytest.raises(InputError, match=told):
            store.nodes.remove(name)
    silence(store, "a")
    assert store.nodes.remove("a") == ("m", "over-both")
    states = {model.name: model.state.value for model in store.view()[1]}
    assert states == {
        "m": "queued", "leaving": "unloaded", "over-both": "queued", "elsewhere": "loading",
    }  # fmt: skip
    assert store.model("m").reason == "a was removed"
    assert [b.model for b in store.view()[2]] == ["elsewhere"]
    assert [node.name for node in store.nodes.all()] == ["b"]
    assert (store.nodes.strays("a"), len(store.nodes.strays("b"))) == ((), 1)
    assert store.nodes.copies() == {("m", 1): frozenset("b")}
    assert [asked.id for asked in store.questions.open()] == ["b"]
    assert not store.nodes.beat("a", identity="of a", report=REPORT)
    with store._engine.connect() as tx:
        assert tx.scalars(sa.select(schema.traffic.c.node)).all() == ["b"]


# --- files and traffic --------------------------------------------------------------------


def test_a_node_says_which_versions_it_has_the_files_of(store: Store) -> None:
    store.nodes.note_copies("a", [("m", 1), ("m", 2), ("n", 1)])
    store.nodes.note_copies("b", [("m", 2)])
    store.nodes.note_copies("a", [("m", 2), ("o", 1)])
    assert store.nodes.copies() == {("m", 2): frozenset("ab"), ("o", 1): frozenset("a")}
    store.nodes.note_copies("b", [])
    assert store.nodes.copies() == {("m", 2): frozenset("a"), ("o", 1): frozenset("a")}


def test_each_node_counts_its_own_traffic_and_knows_that_of_nodes_that_are_there(
    store: Store,
) -> None:
    join(store, "a", "b", "c")
    for number, node in enumerate(("a", "b", "c", "unknown"), 1):
        store.act_as(node)
        store.history.record_traffic({"m": Traffic(completed=number), node: Traffic(completed=1)})
    silence(store, "c")
    store.act_as("a")
    assert {m: seen.completed for m, seen in store.history.traffic().items()} == {"m": 1, "a": 1}
    found = {m: [t.completed for t in seen] for m, seen in store.history.elsewhere().items()}
    assert found == {"m": [2], "b": [1]}
    (m,) = store.history.rollups(model="m")
    assert m.requests == 1 + 2 + 3 + 4, "hours count those of all nodes"


def test_one_node_takes_over_what_was_counted_before_nodes_had_names(store: Store) -> None:
    store.history.record_traffic({"m": Traffic(completed=5), "n": Traffic(completed=7)})
    store.act_as("a")
    store.history.record_traffic({"n": Traffic(completed=1)})
    store.history.adopt_traffic()
    store.history.adopt_traffic()
    assert {m: t.completed for m, t in store.history.traffic().items()} == {"m": 5, "n": 1}
    store.act_as("b")
    store.history.adopt_traffic()
    assert store.history.traffic() == {}


def test_nodes_are_read_again_only_where_they_said_something(store: Store) -> None:
    join(store, "a", "b")
    first = store.nodes.all()
    store.nodes.beat("b", identity="of b", report=REPORT)
    second = store.nodes.all()
    assert second[0].report is first[0].report
    assert second[1].report == REPORT
