"""What came of decisions, derived from what the store has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from modelium.errors import FailureKind
from modelium.models import (
    Decision,
    Load,
    ModelFormat,
    Plan,
    Priority,
    Queue,
    RuntimeName,
    Traffic,
    Trigger,
    Unload,
)
from modelium.models.outcomes import ClassFailures, ModelClass, Result
from modelium.outcomes.attempts import Setup
from modelium.store import Store, outcomes, schema
from modelium.traffic.request_log import LoggedRequest
from tests.fakes.fleets import profile

V = RuntimeName.VLLM
SETUP = Setup(settings="s", engine="1.0")
SETUPS = {V: SETUP}
LLAMA = ModelClass(format=ModelFormat.TRANSFORMERS, architecture="LlamaForCausalLM")
HOUR_S = 3600


class Now:
    def __init__(self) -> None:
        self.at = 480_000.0 * HOUR_S

    def time(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Now:
    return Now()


@pytest.fixture
def store(url: str, clock: Now) -> Iterator[Store]:
    opened = Store.open(url, now=clock.time)
    yield opened
    opened.close()


def load(model: str) -> Load:
    return Load(model=model, runtime=V, devices=("n/g0",), reserve={"n/g0": 1}, reason="r")


def decided(store: Store, id: str, *actions: Any, at: float, **given: Any) -> None:
    plan = {"author": "rules", "trigger": Trigger.SWEEP, "actions": actions}
    plan |= {key: given.pop(key) for key in ("author", "trigger", "fallback") if key in given}
    made = Decision(id=id, at=at, plan=Plan(**plan), snapshot_digest="", **given)
    store.decisions.record(made)


def told(store: Store, clock: Now, at: float, event: str, model: str, /, **detail: Any) -> None:
    clock.at = at
    store.events.append(f"model.{event}", model=model, **detail)


def registered(store: Store, name: str, **given: Any) -> None:
    store.register(
        name,
        path=Path(f"/models/{name}"),
        digest=f"sha256:{name}",
        team=None,
        priority=Priority.LOW,
        priority_ceiling=Priority.HIGH,
        pinned=False,
        profile=profile(1, **given),
    )


def answered(*at: float, model: str = "a") -> list[LoggedRequest]:
    return [
        LoggedRequest(at=t, model=model, prompt_tokens=1, generated_tokens=1, latency_s=0.1)
        for t in at
    ]


# --- outcomes -------------------------------------------------------------------------------------


def test_outcomes_are_read_from_decisions_events_and_requests(store: Store, clock: Now) -> None:
    t = clock.at
    decided(store, "d1", load("a"), at=t, author="llm", trigger=Trigger.INGEST, outcome="done")
    told(store, clock, t + 10, "ready", "a", load_s=9.5)
    decided(
        store,
        "d2",
        Unload(model="a", cause="space", reason="r"),
        load("b"),
        at=t + 300,
        fallback="timeout: late",
    )
    told(store, clock, t + 301, "evicted", "a")
    store.history.log(answered(t + 12, t + 14))
    first, second, third = store.outcomes.all()
    assert (first.decision, first.author, first.trigger, first.fallback, first.runtime) == (
        *("d1", "llm", Trigger.INGEST, False, V),
    )
    assert (first.result, first.load_s, first.asked_after_s, first.held_s, first.reversed) == (
        *(Result.READY, 9.5, 2, 291, True),
    )
    assert (second.decision, second.action, second.result) == ("d2", "unload", Result.UNLOADED)
    assert (second.fallback, second.runtime) == (True, None)
    assert (third.model, third.result) == ("b", Result.PENDING)


def test_outcomes_can_begin_later(store: Store) -> None:
    for number in (1, 2):
        decided(store, f"d{number}", Queue(model="a", reason="r"), load("b"), at=number)
    assert [o.decision for o in store.outcomes.all(since=2.0)] == ["d2", "d2"]
    assert store.outcomes.all(since=3.0) == []
    assert store.outcomes.oldest() == 1.0


def test_an_empty_store_has_no_outcomes(store: Store) -> None:
    assert (store.outcomes.all(), store.outcomes.oldest()) == ([], None)
    assert store.outcomes.of_models(["a"]) == []
    assert store.outcomes.class_failures(since=0.0, setups=SETUPS) == ()


def test_decisions_that_were_not_booked_have_none(store: Store) -> None:
    for outcome in ("refused", "stale"):
        decided(store, outcome, load("a"), at=1, outcome=outcome)
    assert store.outcomes.all() == []


@pytest.mark.parametrize(("detail", "expected"), [("no room", "no room"), ("", "it failed")])
def test_a_failed_decision_tells_why_an_action_did_not_happen(
    store: Store, detail: str, expected: str
) -> None:
    decided(store, "d", load("a"), at=1, outcome="failed", detail=detail)
    (found,) = store.outcomes.all()
    assert (found.result, found.detail) == (Result.WITHDRAWN, expected)


def test_keeping_and_rejecting_are_no_actions(store: Store) -> None:
    actions = [{"action": kind, "model": "a", "reason": "r"} for kind in ("keep", "reject")]
    decided(store, "d", *actions, at=1)
    assert store.outcomes.all() == []


def test_some_models_outcomes_are_the_newest_first_and_limited(store: Store, clock: Now) -> None:
    t = clock.at
    for number in range(4):
        decided(store, f"d{number}", load("a"), load("b"), at=t + number)
        told(store, clock, t + number, "ready", "a", load_s=number)
        told(store, clock, t + number, "ready", "b", load_s=number + 10)
    found = store.outcomes.of_models(["a"], limit=3)
    assert [(o.model, o.decision, o.load_s) for o in found] == [
        *(("a", "d3", 3), ("a", "d2", 2), ("a", "d1", 1)),
    ]
    assert len(store.outcomes.of_models(["a", "b", "c"])) == 8
    assert {o.model for o in store.outcomes.of_models(["b@2"])} == {"b"}
    assert store.outcomes.of_models([]) == []


def test_the_newest_outcome_knows_what_left_the_model_unloaded(store: Store, clock: Now) -> None:
    t = clock.at
    decided(store, "d1", load("a"), at=t)
    told(store, clock, t + 1, "ready", "a", load_s=1)
    decided(store, "d2", Unload(model="a", reason="r"), at=t + 10)
    told(store, clock, t + 11, "evicted", "a")
    decided(store, "d3", load("a"), at=t + 20, trigger=Trigger.DEMAND)
    told(store, clock, t + 21, "ready", "a", load_s=1)
    (found,) = store.outcomes.of_models(["a"], limit=1)
    assert (found.decision, found.cold_start_of) == ("d3", "d2")


def test_only_so_many_models_are_looked_at(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "MOST_MODELS", 1)
    decided(store, "d", load("a"), load("b"), at=1)
    assert [o.model for o in store.outcomes.of_models(["b", "a"])] == ["a"]


def test_without_a_request_log_the_hourly_traffic_tells_the_hour(store: Store, clock: Now) -> None:
    hour = clock.at + HOUR_S
    decided(store, "d1", load("a"), at=hour + 10)
    told(store, clock, hour + 20, "ready", "a", load_s=10)
    store.history.record_traffic({"a": Traffic(completed=3)})
    (found,) = store.outcomes.all()
    assert found.asked_after_s is None, "these requests may have come before"
    clock.at = hour + 2 * HOUR_S + 5
    store.history.record_traffic({"a": Traffic(completed=4)})
    (found,) = store.outcomes.all()
    assert found.asked_after_s == 2 * HOUR_S - 20
    store.history.log(answered(hour + 30))
    (found,) = store.outcomes.all()
    assert found.asked_after_s == 10


def test_the_log_tells_the_instant_of_a_request_that_the_hour_has_too(
    store: Store, clock: Now
) -> None:
    hour = clock.at + HOUR_S
    decided(store, "d1", load("a"), at=hour - 60)
    told(store, clock, hour - 50, "ready", "a", load_s=10)
    clock.at = hour + 2401
    store.history.log(answered(hour + 2400))
    store.history.record_traffic({"a": Traffic(completed=1)})
    (found,) = store.outcomes.all()
    assert found.asked_after_s == 2450


def test_traffic_after_the_end_of_a_residency_is_not_its(store: Store, clock: Now) -> None:
    hour = clock.at + HOUR_S
    decided(store, "d1", load("a"), at=hour)
    told(store, clock, hour + 20, "ready", "a", load_s=20)
    told(store, clock, hour + HOUR_S, "evicted", "a")
    store.history.record_traffic({"a": Traffic(completed=3)})
    (found,) = store.outcomes.all()
    assert (found.asked_after_s, found.held_s) == (None, HOUR_S - 20)


def test_hours_without_answers_of_the_model_tell_nothing(store: Store, clock: Now) -> None:
    hour = clock.at + HOUR_S
    decided(store, "d1", load("a"), at=hour)
    told(store, clock, hour + 20, "ready", "a", load_s=20)
    clock.at = hour + 2 * HOUR_S
    store.history.log(answered(hour + HOUR_S, model="b"))
    with store._engine.begin() as tx:
        row = {"model": "a", "hour": hour // HOUR_S + 1, "requests": 0, "failed": 0, "direct": 0}
        row |= {"prompt_tokens": 0, "generated_tokens": 0}
        tx.execute(sa.insert(schema.rollups).values(**row))
    assert store.outcomes.all()[0].asked_after_s is None


def test_the_first_request_is_found_by_an_index(store: Store) -> None:
    query = "SELECT min(at) FROM requests WHERE model = 'a' AND at >= 1"
    with store._engine.begin() as tx:
        if tx.dialect.name == "postgresql":
            tx.exec_driver_sql("SET LOCAL enable_seqscan = off")  # there are no rows to skip
            plan = tx.exec_driver_sql(f"EXPLAIN {query}").all()
        else:
            plan = tx.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}").all()
    assert "ix_requests_model_at" in str(plan)


# --- failures of a class --------------------------------------------------------------------------


def failing(store: Store, clock: Now, model: str, **given: Any) -> None:
    fields = {"version": 1, "runtime": "vllm", "kind": FailureKind.STUCK.value}
    fields |= {"setup": SETUP.detail(), **given}
    told(store, clock, clock.at + 10, "failed", model, **fields)


def test_failures_count_by_the_class_of_the_version_that_failed(store: Store, clock: Now) -> None:
    registered(store, "a")
    registered(store, "b")
    registered(store, "q", quantization="awq")
    began = clock.at
    for model in ("a", "b", "q", "unknown"):
        failing(store, clock, model)
    awq = LLAMA.model_copy(update={"quantization": "awq"})
    expected = (
        ClassFailures(model_class=awq, runtime=V, failures=1, models=("q",), last_at=began + 30),
        ClassFailures(
            model_class=LLAMA, runtime=V, failures=2, models=("a", "b"), last_at=began + 20
        ),
    )
    assert store.outcomes.class_failures(since=began, setups=SETUPS) == expected
    assert store.outcomes.class_failures(since=began, setups={V: Setup("t")}) == ()
    assert store.outcomes.class_failures(since=began, setups=SETUPS) == expected


def test_what_happens_later_and_what_is_too_old_is_seen(store: Store, clock: Now) -> None:
    registered(store, "a")
    began = clock.at
    failing(store, clock, "a")
    store.events.append("model.loading", model="a")

    def count(since: float) -> list[int]:
        found = store.outcomes.class_failures(since=since, setups=SETUPS)
        return [f.failures for f in found]

    assert count(began) == [1]
    failing(store, clock, "a")
    registered(store, "b")
    failing(store, clock, "b")
    assert count(began) == [3]
    assert count(began + 10) == [3]
    assert count(began + 11) == [2]
    assert count(began) == [2], "what was too old is not read again"
    told(store, clock, clock.at + 1, "ready", "b", version=1, runtime="vllm", setup=["s", ""])
    assert count(began) == []


def test_a_second_reader_sees_the_same(store: Store, url: str, clock: Now) -> None:
    registered(store, "a")
    failing(store, clock, "a")
    again = Store.open(url, now=clock.time)
    assert again.outcomes.class_failures(since=0, setups=SETUPS) == (
        store.outcomes.class_failures(since=0, setups=SETUPS)
    )
    assert again.outcomes.class_failures(since=clock.at + 1, setups=SETUPS) == ()
    again.close()


def test_a_version_without_a_profile_has_no_class(store: Store, clock: Now) -> None:
    registered(store, "a")
    with store._engine.begin() as tx:
        tx.execute(sa.update(schema.versions).values(profile=sa.null()))
    failing(store, clock, "a")
    assert store.outcomes.class_failures(since=0, setups=SETUPS) == ()
