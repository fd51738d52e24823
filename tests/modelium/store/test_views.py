"""Views are what the tables say, however little of them is read again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from modelium.models import Load, MeasuredLoad, Plan, Priority, RuntimeName, Trigger
from modelium.store import Store, queries, schema

MEASURED = MeasuredLoad(
    runtime=RuntimeName.VLLM,
    device_kind="H100",
    settings_digest="d",
    per_device_bytes=7,
    load_s=1.0,
    at=0.0,
)


def register(store: Store, name: str, digest: str) -> None:
    store.register(
        name,
        path=Path("/repository") / name / digest,
        digest=f"sha256:{digest}",
        team=None,
        priority=Priority.LOW,
        priority_ceiling=Priority.HIGH,
        pinned=False,
    )


def load(store: Store, name: str) -> None:
    action = Load(
        model=name, runtime=RuntimeName.VLLM, devices=("n/a",), reserve={"n/a": 9}, reason="asked"
    )
    asked = Plan(
        author="rules", trigger=Trigger.OPERATOR, actions=(action,), revision=store.revision()
    )
    store.accept(asked, snapshot_digest="d", trace={})


def become_ready(store: Store, name: str) -> None:
    deployment = store.model(name).deployment
    assert deployment is not None
    store.states.mark_ready(name, deployment)


def remove(store: Store, name: str) -> None:
    store.lineage.begin_removal(name, by="me", purge=False)
    store.lineage.finish_removal(name)


def delete(store: Store, table: sa.Table) -> None:
    with queries.change(store._engine) as tx:
        tx.execute(sa.delete(table))


CHANGES: tuple[Callable[[Store], Any], ...] = (
    lambda s: register(s, "B", "1"),
    lambda s: register(s, "a", "1"),
    lambda s: register(s, "b", "1"),
    lambda s: s.rules.approve("a", digest="sha256:1", what=["pickle"]),
    lambda s: s.states.mark_analyzed("a"),
    lambda s: s.states.mark_analyzed("b"),
    lambda s: load(s, "a"),
    lambda s: load(s, "b"),
    lambda s: s.history.record_memory({("a", "n/a"): 7}, {"a": MEASURED}),
    lambda s: become_ready(s, "a"),
    lambda s: s.twins.stand_by("a"),
    lambda s: register(s, "a", "2"),
    lambda s: s.states.cancel_load("b", reason=""),
    lambda s: s.rules.set_pinned("b", True),
    lambda s: remove(s, "B"),
    lambda s: delete(s, schema.measured),
    lambda s: delete(s, schema.bookings),
    lambda s: delete(s, schema.approvals),
    lambda s: delete(s, schema.deployments),
)


def test_a_view_after_each_change_is_what_a_new_process_reads(url: str, store: Store) -> None:
    seen = [store.view()]
    for change in CHANGES:
        change(store)
        new = Store.open(url, now=lambda: 0.0)
        seen.append(store.view())
        assert seen[-1] == new.view()
        assert seen[-1][1:] != seen[-2][1:]
        new.close()


def test_a_change_shows_that_was_under_way_at_the_last_view(url: str, store: Store) -> None:
    for name in "ab":
        register(store, name, "1")
    other = Store.open(url, now=lambda: 0.0)
    with queries.change(store._engine) as tx:
        tx.execute(queries.update_model("a").values(pinned=True))
        other.history.log([])
        assert not any(model.pinned for model in other.view()[1])
    assert [model.pinned for model in other.view()[1]] == [True, False]
    other.close()


@pytest.mark.real
@pytest.mark.xdist_group("postgresql")
def test_only_models_that_have_changed_are_read_again(server: Any) -> None:
    store = Store.open(server.emptied(), now=lambda: 0.0)
    for name in "abc":
        register(store, name, "1")
    store.view()
    read: list[object] = []

    @sa.event.listens_for(store._engine, "before_cursor_execute")
    def _note(
        _connection: object, _cursor: object, statement: str, parameters: Any, *_: Any
    ) -> None:
        if "removal" in statement:
            read.append(dict(parameters))

    store.rules.set_pinned("b", True)
    read.clear()
    assert [model.pinned for model in store.view()[1]] == [False, True, False]
    assert [list(one.values()) for one in read] == [["b"]]
    store.close()


def test_after_a_lost_connection_all_is_read_again(store: Store) -> None:
    """Another server may have taken over, which counts changes anew from where it was."""
    register(store, "a", "1")
    _revision, (seen,), _bookings = store.view()
    with store._engine.begin() as tx:  # as many changes, and others
        tx.execute(queries.update_model("a").values(pinned=True))
    assert not seen.pinned
    with store._engine.connect() as lost:
        lost.invalidate()
    _revision, (found,), _bookings = store.view()
    assert found.pinned
