"""Every table is bounded: by what is registered, or by pruning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from modelium.models import Decision, Intent, NodeReport, Plan, Priority, Trigger
from modelium.store import Store, decisions, events, history, intents, pruning, schema
from modelium.store.departures import KEPT_S
from tests.fakes.clock import FakeClock

Fill = Callable[[Store, int], None]

REGISTERED = {"models", "versions", "deployments", "bookings", "standings", "approvals", "measured"}
"""Bounded by the models that are registered; see also `OUTLIVED`."""

REGISTERED |= {"parts"}
"""Of one that is not registered any more, each node ends its own, and then the row."""

FIXED = {"leases", "meta", "reservations", "nodes", "strays", "copies"}
"""A reservation ends with its ingest; what a crash leaves, the scan of the repository ends. A lease has
a row for each of the few names there are. A node is there until it is removed, with its strays, its
copies and its lease."""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (decisions, events, intents):
        monkeypatch.setattr(module, "KEPT", 3)
    monkeypatch.setattr(history, "MOST_REQUESTS", 3)
    monkeypatch.setattr(pruning, "MEASURED", 3)


def insert(store: Store, table: sa.Table, *rows: dict[str, Any]) -> None:
    with store._engine.begin() as tx:
        tx.execute(sa.insert(table), list(rows))


def count(store: Store, name: str) -> int:
    with store._engine.connect() as tx:
        counted = sa.select(sa.func.count()).select_from(schema.metadata.tables[name])
        return int(tx.scalar(counted) or 0)


def prune(store: Store) -> None:
    store.prune()
    store.history.prune(rollup_days=1.0, request_days=1.0)


def decide(store: Store, number: int) -> None:
    plan = Plan(author="rules", trigger=Trigger.SWEEP, subject="a")
    made = Decision(id=f"d{number}", at=number, plan=plan, snapshot_digest="", outcome="done")
    store.decisions.record(made)


def ask(store: Store, number: int) -> None:
    store.intents.save(Intent(id=f"i{number}", at=number, kind="load", model="a", state="done"))


def request(store: Store, number: int) -> None:
    row = {"at": store._now(), "model": "a", "latency_s": 1.0}
    insert(store, schema.requests, row)


def measure(store: Store, number: int, model: str = "a") -> None:
    row = {"runtime": "vllm", "device_kind": "cpu", "per_device_bytes": 1, "load_s": 1.0}
    own = {"model": model, "settings_digest": str(number), "at": float(number)}
    insert(store, schema.measured, {**row, **own})


def roll(store: Store, number: int) -> None:
    counts = dict.fromkeys(("requests", "failed", "direct", "prompt_tokens"), 0)
    row = {"model": "a", "hour": number, "generated_tokens": 0, **counts}
    insert(store, schema.rollups, row)


def see(store: Store, number: int) -> None:
    insert(
        store, schema.traffic, {"node": "n", "model": f"gone-{number}", "at": 1.0, "document": {}}
    )


def happen(store: Store, number: int) -> None:
    store.events.append("x")


def use(store: Store, number: int) -> None:
    """Leave a row of one hour; all but the last two are older than what is kept."""
    hour = int(store._now() // 3600) - 56 + number
    insert(store, schema.team_usage, {"team": "t", "hour": hour, "gpu_seconds": 1.0})


def wonder(store: Store, number: int) -> None:
    row = {"id": f"q{number}", "node": "n", "at": float(number), "document": {}}
    insert(store, schema.questions, row)


def invite(store: Store, number: int) -> None:
    insert(store, schema.join_tokens, {"hash": f"h{number}", "until": float(number)})


GROWS: dict[str, tuple[Fill, int]] = {
    "events": (happen, 3),
    "decisions": (decide, 3),
    "decision_models": (decide, 3),
    "intents": (ask, 3),
    "requests": (request, 3),
    "rollups": (roll, 0),
    "traffic": (see, 0),
    "measured": (measure, 3),
    "team_usage": (use, 2),
    "questions": (wonder, 0),
    "join_tokens": (invite, 0),
}
"""Table → what fills it, and how many rows are left of ten."""


def register(store: Store, name: str = "a", digest: str = "d1") -> None:
    low = Priority.LOW
    operator: dict[str, Any] = {"team": None, "priority": low, "priority_ceiling": low}
    path = Path("/repository") / digest
    store.register(name, path=path, digest=digest, pinned=False, **operator)


@pytest.mark.parametrize("name", sorted(GROWS))
def test_what_grows_with_time_is_pruned(store: Store, name: str) -> None:
    register(store)
    fill, left = GROWS[name]
    for number in range(10):
        fill(store, number)
    assert count(store, name) == 10
    prune(store)
    assert count(store, name) == left


def outlived_approval(store: Store) -> None:
    store.rules.approve("a", digest="never-registered", what=["pickle"])


def outlived_key(store: Store) -> None:
    document = {"revoked_at": store._now()}
    insert(store, schema.api_keys, {"id": "k", "hash": "h", "document": document})


def outlived_version(store: Store) -> None:
    register(store, digest="d2")
    store.lineage.retire("a", [1], by="x")


def outlived_departure(store: Store) -> None:
    row = {"decision": "d", "model": "a", "beneficiary": "", "kind": "queue", "at": store._now()}
    insert(store, schema.departures, {**row, "price_s": 30.0, "until": store._now()})


def outlived_pool(store: Store) -> None:
    insert(store, schema.key_pools, {"key": "k", "at": store._now(), "document": {}})


OUTLIVED: dict[str, tuple[Callable[[Store], None], float]] = {
    "approvals": (outlived_approval, pruning.APPROVALS_S),
    "api_keys": (outlived_key, pruning.KEYS_S),
    "versions": (outlived_version, pruning.VERSIONS_S),
    "departures": (outlived_departure, KEPT_S),
    "key_pools": (outlived_pool, pruning.POOLS_S),
}
"""Table → what leaves a row of no use, and for how long it is kept."""


def test_an_expired_key_is_kept_for_a_while(store: Store, clock: FakeClock) -> None:
    document = {"revoked_at": None, "expires_at": clock.time()}
    insert(store, schema.api_keys, {"id": "k", "hash": "h", "document": document})
    clock.advance(pruning.KEYS_S - 1)
    prune(store)
    assert count(store, "api_keys") == 1
    clock.advance(2)
    prune(store)
    assert count(store, "api_keys") == 0


@pytest.mark.parametrize("name", sorted(OUTLIVED))
def test_what_is_of_no_use_is_kept_for_a_while(store: Store, clock: FakeClock, name: str) -> None:
    register(store)
    before = count(store, name)
    leave, kept_s = OUTLIVED[name]
    leave(store)
    clock.advance(kept_s - 1)
    prune(store)
    assert count(store, name) == before + 1
    clock.advance(2)
    prune(store)
    assert count(store, name) == before


def test_every_table_is_bounded() -> None:
    covered = {*GROWS, *OUTLIVED, *REGISTERED, *FIXED}
    assert covered == set(schema.metadata.tables), "say what bounds a new table"


def test_what_is_in_use_stays(store: Store, clock: FakeClock) -> None:
    register(store)
    store.rules.approve("a", digest="d1", what=["pickle"])
    live = Intent(id="live", at=0.0, kind="load", model="a")
    store.intents.save(live)
    for number in range(1, 10):
        ask(store, number)
    document = {"revoked_at": None}
    insert(store, schema.api_keys, {"id": "k", "hash": "h", "document": document})
    insert(store, schema.traffic, {"node": "n", "model": "a", "at": 1.0, "document": {}})
    clock.advance(2 * pruning.VERSIONS_S)
    prune(store)
    assert store.intents.get("live") == live
    assert store.rules.approvals("d1") == {"pickle"}
    assert count(store, "api_keys") == count(store, "traffic") == count(store, "versions") == 1


def test_what_nodes_still_use_stays(store: Store) -> None:
    token = store.nodes.issue_token()
    store.questions.ask("q", node="n", document={})
    store.nodes.join("n", identity="i", token=None, report=NodeReport())
    names = ("planner", "service", "node n", "node gone", "node up")
    leases = [{"name": name, "holder": "h", "epoch": 7, "until": 0.0} for name in names]
    leases[-1]["until"] = 1e12
    insert(store, schema.leases, *leases)
    prune(store)
    assert [asked.id for asked in store.questions.open()] == ["q"]
    with store._engine.connect() as tx:
        kept = tx.scalars(sa.select(schema.leases.c.name).order_by(schema.leases.c.name)).all()
    assert kept == ["node n", "node up", "planner", "service"]
    assert store.nodes.join("m", identity="j", token=token, report=NodeReport())


def test_the_number_of_a_removed_version_is_not_used_again(store: Store, clock: FakeClock) -> None:
    register(store)
    register(store, digest="d2")
    store.lineage.choose("a", 1)
    store.lineage.retire("a", [2], by="x")
    clock.advance(2 * pruning.VERSIONS_S)
    prune(store)
    assert store.lineage.next_version("a") == 3
