"""What each change of the store does to the rows, and that it touches no others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from modelium.errors import FailureKind
from modelium.models import (
    Load,
    MeasuredLoad,
    Plan,
    Preference,
    Priority,
    Reject,
    Reservation,
    RuntimeName,
    Setbacks,
    Traffic,
    Trigger,
    Unload,
)
from modelium.store import Store, schema
from tests.modelium.store.test_store import PROFILE

pytestmark = pytest.mark.slow

BEFORE, NOW = 1000.0, 2000.0
SETBACKS = Setbacks(kind=FailureKind.KILLED, runtimes={RuntimeName.VLLM: 2}, configuration="c")
TERMS = {"team": "t", "priority": "low", "priority_ceiling": "high", "pinned": False}
RELOADED = {"failures": 0, "retry_at": None, "setbacks": None}

Key = tuple[object, ...]
Rows = dict[Key, dict[str, Any]]


def register(store: Store, name: str, version: int, **given: Any) -> None:
    fields: dict[str, Any] = {
        "team": "t", "priority": Priority.LOW, "priority_ceiling": Priority.HIGH, "pinned": False,
    }  # fmt: skip
    path = Path(f"/repository/{name}@{version}")
    store.register(name, path=path, digest=f"{name}{version}", **{**fields, **given})


def accept(store: Store, *actions: Load | Unload | Reject) -> None:
    plan = Plan(
        author="rules", trigger=Trigger.OPERATOR, actions=actions, revision=store.revision()
    )
    store.accept(plan, snapshot_digest="d", trace={})


def load(store: Store, name: str) -> None:
    action = Load(
        model=name, runtime=RuntimeName.VLLM, devices=("n/0",), reserve={"n/0": 5}, reason="asked"
    )
    accept(store, action)


def ready(store: Store, name: str) -> None:
    load(store, name)
    deployment = store.model(name).deployment
    assert deployment is not None
    store.states.mark_ready(name, deployment)


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """Models that are failed, idle, going, on their way, and twice ready: two versions of each."""
    at = [BEFORE]
    opened = Store.open(url, now=lambda: at[0])
    for name in ("failed", "idle", "going", "coming", "ready", "other"):
        for version in (1, 2):
            register(opened, name, version)
        opened.states.mark_analyzed(name)
    opened.history.record_memory({}, {name: measured(1.0) for name in opened.names()})
    opened.history.record_traffic({name: Traffic(completed=1) for name in opened.names()})
    for name in ("failed", "coming"):
        load(opened, name)
    opened.states.fail("failed", reason="bad", failures=2, retry_at=1500.0, setbacks=SETBACKS)
    for name in ("going", "ready", "other"):
        ready(opened, name)
    accept(opened, Unload(model="going", reason="idle"))
    for name in ("idle", "ready"):
        standing = {"model": name, "asked": {"team": "t"}, "declared": {"team": "t"}}
        with opened._engine.begin() as tx:
            tx.execute(sa.insert(schema.standings).values(standing))
        opened.reservations.add(
            Reservation(model=name, version=3, path=f"/repository/{name}@3", digest="x")
        )
    at[0] = NOW
    yield opened
    opened.close()


def measured(load_s: float) -> MeasuredLoad:
    return MeasuredLoad(
        runtime=RuntimeName.VLLM, device_kind="H100", settings_digest="d",
        per_device_bytes=7, load_s=load_s, at=1.0,
    )  # fmt: skip


def rows(store: Store) -> Rows:
    found: Rows = {}
    with store._engine.connect() as tx:
        for table in schema.metadata.sorted_tables:
            for row in tx.execute(sa.select(table)).mappings():
                key = [row[column.name] for column in table.primary_key]
                found[table.name, *key] = dict(row)
    del found["meta", "revision"]
    return found


def changes(store: Store, act: Callable[[Store], object]) -> dict[Key, dict[str, Any] | None]:
    """Return the columns that ``act`` changes, by row; a row that is gone has ``None``."""
    before = rows(store)
    act(store)
    after = rows(store)
    found: dict[Key, dict[str, Any] | None] = dict.fromkeys(before.keys() - after.keys())
    for key, row in after.items():
        old = before.get(key, {})
        if new := {name: value for name, value in row.items() if old.get(name, ...) != value}:
            found[key] = new
    return found


def model(name: str, /, **fields: Any) -> dict[Key, dict[str, Any] | None]:
    return {("models", name): fields}


def moved(name: str, state: str, /, **fields: Any) -> dict[Key, dict[str, Any] | None]:
    return model(name, state=state, state_since=NOW, **{"reason": "r", **fields})


def version(name: str, number: int, /, **fields: Any) -> dict[Key, dict[str, Any] | None]:
    return {("versions", name, number): fields}


def freed(name: str) -> dict[Key, dict[str, Any] | None]:
    return {("bookings", name, "n/0"): None, ("deployments", name): None}


def registered(name: str, number: int, /, **fields: Any) -> dict[Key, dict[str, Any] | None]:
    row = dict.fromkeys(
        (
            "preference",
            "profile",
            "proven_at",
            "purge",
            "removed_at",
            "removed_by",
            "seal",
            "team",
            "wishes",
        )
    )
    where = {"model": name, "version": number, "path": f"/repository/{name}@{number}"}
    own = {"digest": f"{name}{number}", "registered_at": NOW}
    return version(name, number, **{**row, **where, **own, **fields})


NEW: dict[str, Any] = {
    "evicted_at": None, "failures": 0, "pinned": False, "priority": "low",
    "priority_ceiling": "high", "queued_at": None, "reason": "", "removal": None,
    "retry_at": None, "setbacks": None, "state_since": NOW, "team": "t",
}  # fmt: skip

CASES: dict[str, tuple[Callable[[Store], object], dict[Key, dict[str, Any] | None]]] = {
    "unservable": (
        lambda s: s.states.mark_unservable("idle", reason="r"),
        moved("idle", "failed"),
    ),
    "healthy": (lambda s: s.states.mark_healthy("failed"), model("failed", **RELOADED)),
    "forgive": (
        lambda s: s.states.forgive("failed"),
        model("failed", **{**RELOADED, "retry_at": NOW}),
    ),
    "forgive one that has not failed": (lambda s: s.states.forgive("ready"), {}),
    "pin": (lambda s: s.rules.set_pinned("ready", True), model("ready", pinned=True)),
    "profile": (
        lambda s: s.lineage.set_profile("ready", 1, PROFILE),
        version("ready", 1, profile=PROFILE.model_dump(mode="json")),
    ),
    "relocate": (
        lambda s: s.lineage.relocate("ready", 1, digest="ready1", path=Path("/new")),
        version("ready", 1, path="/new"),
    ),
    "relocate other content": (
        lambda s: s.lineage.relocate("ready", 1, digest="ready2", path=Path("/new")),
        {},
    ),
    "analyzed while loaded": (lambda s: s.states.mark_analyzed("ready"), {}),
    "analyzed after a failure": (
        lambda s: s.states.mark_analyzed("failed"),
        moved("failed", "analyzed", reason=""),
    ),
    "analyzed again": (lambda s: s.states.mark_analyzed("idle"), {}),
    "start unloading": (
        lambda s: s.states.start_unloading("going", reason="r"),
        moved("going", "unloading"),
    ),
    "cancel an eviction": (
        lambda s: s.states.cancel_eviction("going", reason="r"),
        {**moved("going", "ready"), ("bookings", "going", "n/0"): {"releasing": False}},
    ),
    "requeue": (
        lambda s: s.states.requeue("ready", reason="r"),
        {**moved("ready", "queued", queued_at=NOW), **freed("ready")},
    ),
    "requeue what was evicted": (
        lambda s: s.states.requeue("ready", reason="r", evicted=True),
        {**moved("ready", "queued", queued_at=NOW, evicted_at=NOW), **freed("ready")},
    ),
    "fail": (
        lambda s: s.states.fail("coming", reason="r", failures=3, retry_at=5.0, setbacks=SETBACKS),
        {
            **moved(
                "coming",
                "failed",
                failures=3,
                retry_at=5.0,
                setbacks=SETBACKS.model_dump(mode="json"),
            ),
            **freed("coming"),
        },
    ),
    "cancel a load": (
        lambda s: s.states.cancel_load("coming", reason="r"),
        {**moved("coming", "unloaded"), **freed("coming")},
    ),
    "approve": (
        lambda s: s.rules.approve("ready", digest="x", what=["pickle", "pickle"]),
        {
            ("approvals", "x", "pickle"): {
                "at": NOW,
                "digest": "x",
                "model": "ready",
                "what": "pickle",
            }
        },
    ),
    "retire and purge": (
        lambda s: s.lineage.retire("ready", [1], by="me", purge=True),
        version("ready", 1, removed_at=NOW, removed_by="me", purge=True, team="t"),
    ),
    "retire": (
        lambda s: s.lineage.retire("ready", [1], by="me"),
        version("ready", 1, removed_at=NOW, removed_by="me", purge=False, team="t"),
    ),
    "prove": (lambda s: s.lineage.prove("ready", 1), version("ready", 1, proven_at=NOW)),
    "prove again": (lambda s: s.lineage.prove("ready", 2), {}),
    "seal": (lambda s: s.lineage.set_seal("ready", 1, "s"), version("ready", 1, seal="s")),
    "note that a kept one was moved": (lambda s: s.lineage.note_moved("ready", 1, "/x"), {}),
    "begin a removal": (
        lambda s: s.lineage.begin_removal("ready", by="me", purge=True),
        model(
            "ready",
            reason="being removed; me asked for it",
            removal={"at": NOW, "by": "me", "purge": True},
        ),
    ),
    "choose for a loaded one": (
        lambda s: s.lineage.choose("ready", 1),
        model("ready", version=1),
    ),
    "choose for a failed one": (
        lambda s: s.lineage.choose("failed", 1),
        model("failed", version=1, state="ingested", state_since=NOW, **RELOADED),
    ),
    "memory": (
        lambda s: s.history.record_memory({("ready", "n/0"): 9}, {"ready": measured(2.0)}),
        {
            ("bookings", "ready", "n/0"): {"resident_bytes": 9},
            ("measured", "ready", "vllm", "H100", "d"): {"load_s": 2.0},
            ("meta", "seen"): {"value": 2},
        },
    ),
    "traffic": (
        lambda s: s.history.record_traffic(
            {
                "ready": Traffic(completed=3, failed=1, direct=1),
                "other": Traffic(completed=1, qps=2.0),
            }
        ),
        {
            ("rollups", "ready", 0): {"direct": 1, "failed": 1, "requests": 4},
            ("traffic", "", "ready"): {
                "at": NOW,
                "document": Traffic(completed=3, failed=1, direct=1).model_dump(mode="json"),
            },
        },
    ),
    "pause": (
        lambda s: s.rules.set_idle_pause(7.9),
        {("meta", "idle_paused_since"): {"key": "idle_paused_since", "value": 7}},
    ),
    "drop a reservation": (
        lambda s: s.reservations.drop(s.reservations.all("ready")[0]),
        {("reservations", "ready", 3): None},
    ),
    "stand by": (
        lambda s: s.twins.stand_by("ready"),
        model(
            "ready@2",
            **{**NEW, "name": "ready@2", "registered_at": BEFORE},
            state="analyzed",
            twin_of="ready",
            version=2,
        ),
    ),
    "register for an idle one": (
        lambda s: register(s, "idle", 3),
        {
            **model("idle", state="ingested", state_since=NOW, version=3),
            **registered("idle", 3),
            ("reservations", "idle", 3): None,
        },
    ),
    "register for a failed one": (
        lambda s: register(s, "failed", 3),
        {
            **model("failed", state="ingested", state_since=NOW, version=3, **RELOADED),
            **registered("failed", 3),
        },
    ),
    "register for a loaded one": (
        lambda s: register(
            s,
            "ready",
            3,
            pinned=True,
            team=None,
            priority=Priority.MEDIUM,
            priority_ceiling=Priority.MEDIUM,
            seal="s",
            profile=PROFILE,
        ),
        {
            **model(
                "ready",
                pinned=True,
                priority="medium",
                priority_ceiling="medium",
                team=None,
                version=3,
            ),
            **registered("ready", 3, seal="s", profile=PROFILE.model_dump(mode="json")),
            ("reservations", "ready", 3): None,
        },
    ),
    "register a new one": (
        lambda s: register(s, "new", 1, asked={"team": "u"}),
        {
            **model(
                "new",
                **{**NEW, "name": "new", "registered_at": NOW},
                state="ingested",
                twin_of=None,
                version=1,
            ),
            **registered("new", 1),
            ("standings", "new"): {"model": "new", "asked": {"team": "u"}, "declared": TERMS},
        },
    ),
    "register the current content": (lambda s: register(s, "ready", 2), {}),
    "clear a pause": (
        lambda s: s.rules.set_idle_pause(None),
        {
            ("meta", "idle_paused_since"): {"key": "idle_paused_since", "value": 0},
        },
    ),
}


@pytest.mark.parametrize("case", list(CASES))
def test_a_change_touches_its_own_rows_alone(store: Store, case: str) -> None:
    act, expected = CASES[case]
    assert changes(store, act) == expected


def test_a_load_that_is_ready_is_proven_where_nothing_else_is(store: Store) -> None:
    deployment = store.model("coming").deployment
    assert deployment is not None
    loaded = deployment.model_copy(update={"load_s": 2.5})
    wish = Preference(runtime=RuntimeName.VLLM)
    made = changes(
        store, lambda s: s.states.mark_ready("coming", loaded, note="with less", preference=wish)
    )
    assert made == {
        **moved("coming", "ready", reason="loaded on vllm in 2.5 s with less"),
        **version("coming", 2, preference=wish.model_dump(mode="json"), proven_at=NOW),
        ("deployments", "coming"): {"document": loaded.model_dump(mode="json")},
    }


def test_a_load_that_is_ready_after_a_failure_is_not_due_again(store: Store) -> None:
    load(store, "failed")
    deployment = store.model("failed").deployment
    assert deployment is not None
    store.lineage.prove("failed", 1)
    made = changes(store, lambda s: s.states.mark_ready("failed", deployment))
    told = "loaded on vllm in 0.0 s"
    assert made == model("failed", state="ready", reason=told, retry_at=None)


def test_memory_that_nobody_has_found_out_is_not_known_once_a_model_is_loaded(store: Store) -> None:
    store.history.record_memory({("other", "n/0"): 9}, {})
    held = [(booking.model, booking.resident_bytes) for booking in store.view()[2]]
    assert held == [("coming", 0), ("going", None), ("other", 9), ("ready", None)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("failed", model("failed", reason="too large", **RELOADED)),
        ("idle", moved("idle", "failed", reason="too large")),
    ],
)
def test_a_rejected_model_is_tried_no_more(
    store: Store, name: str, expected: dict[Key, dict[str, Any] | None]
) -> None:
    made = changes(store, lambda s: accept(s, Reject(model=name, reason="too large")))
    assert {key: row for key, row in made.items() if "decision" not in str(key[0])} == expected


def test_a_view_is_the_same_until_something_changes(store: Store) -> None:
    first = store.view()
    assert store.view() is first
    store.rules.set_pinned("idle", True)
    assert store.view()[0] == first[0] + 1
    store.lineage.begin_removal("idle", by="me", purge=False)
    store.lineage.finish_removal("idle")
    store.view()
    assert {name for _kind, name in store._views._cache._known} == store.names()
