"""The log of decisions and how they ended."""

from __future__ import annotations

from typing import Any

import pytest

from modelium.errors import InputError
from modelium.models import Decision, Plan, Trigger, Unload
from modelium.store import Store, decisions


def decision(id: str, *models: str, at: float = 0.0, **given: Any) -> Decision:
    plan = Plan(
        author="rules",
        trigger=Trigger.SWEEP,
        subject=given.pop("subject", None),
        actions=tuple(Unload(model=model, reason="") for model in models),
    )
    return Decision(id=id, at=at, plan=plan, snapshot_digest="", **given)


def ids(found: list[Decision]) -> list[str]:
    return [one.id for one in found]


def test_a_recorded_decision_is_found(store: Store) -> None:
    made = decision("d1", "a", trace={"endpoint": "llm"})
    store.decisions.record(made)
    assert store.decisions.get("d1") == made
    with pytest.raises(InputError, match="'d2'"):
        store.decisions.get("d2")


def test_recording_a_decision_again_replaces_it(store: Store) -> None:
    store.decisions.record(decision("d1", "a"))
    store.decisions.record(decision("d1", "a", detail="new"))
    assert store.decisions.get("d1").detail == "new"
    assert ids(store.decisions.newest(model="a")) == ["d1"]


def test_decisions_are_listed_by_every_model_that_they_name(store: Store) -> None:
    store.decisions.record(decision("d1", "a", "b", at=1.0))
    store.decisions.record(decision("d2", "b", at=2.0, subject="c"))
    assert ids(store.decisions.newest()) == ["d2", "d1"]
    assert ids(store.decisions.newest(limit=1)) == ["d2"]
    assert ids(store.decisions.newest(model="a")) == ["d1"]
    assert ids(store.decisions.newest(model="b")) == ["d2", "d1"]
    assert ids(store.decisions.newest(model="c")) == ["d2"]


def test_decisions_of_an_llm_are_listed_by_their_endpoint(store: Store) -> None:
    store.decisions.record(decision("d1", "a", trace={"endpoint": "http://llm"}))
    store.decisions.record(decision("d2", "a"))
    assert ids(store.decisions.newest(advised=True)) == ["d1"]


def test_an_end_is_recorded_with_its_instant(store: Store) -> None:
    store.decisions.record(decision("d1", "a"))
    store.decisions.finish("d1", outcome="done")
    ended = store.decisions.get("d1")
    assert ended.outcome == "done" and ended.finished_at is not None


def test_the_first_failure_stands(store: Store) -> None:
    store.decisions.record(decision("d1", "a"))
    store.decisions.finish("d1", outcome="failed", detail="no memory")
    store.decisions.finish("d1", outcome="done")
    assert (store.decisions.get("d1").outcome, store.decisions.get("d1").detail) == (
        "failed",
        "no memory",
    )
    store.decisions.finish("unknown", outcome="done")


def test_the_oldest_decisions_are_pruned(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "KEPT", 2)
    for number in range(4):
        store.decisions.record(decision(f"d{number}", "a", at=float(number)))
    store.decisions.prune()
    assert ids(store.decisions.newest()) == ["d3", "d2"]
    assert ids(store.decisions.newest(model="a")) == ["d3", "d2"]


def test_a_decision_that_has_ended_well_may_still_fail(store: Store) -> None:
    store.decisions.record(decision("d1", "a", detail="old", trace={"endpoint": "llm"}))
    store.decisions.finish("d1", outcome="done")
    first = store.decisions.get("d1")
    assert (first.outcome, first.detail, first.trace) == ("done", "", {"endpoint": "llm"})
    store.decisions.finish("d1", outcome="failed", detail="no memory")
    ended = store.decisions.get("d1")
    assert (ended.outcome, ended.detail) == ("failed", "no memory")
    assert ended.finished_at is not None and first.finished_at is not None
    assert ended.finished_at > first.finished_at


def test_only_an_open_decision_is_abandoned(store: Store) -> None:
    for id in ("d1", "d2"):
        store.decisions.record(decision(id, "a"))
    store.decisions.finish("d2", outcome="done")
    before = store.decisions.get("d2")
    for id in ("d1", "d2", "unknown"):
        store.decisions.abandon(id, detail="restarted")
    ended = store.decisions.get("d1")
    assert (ended.outcome, ended.detail) == ("failed", "restarted")
    assert ended.finished_at is not None
    assert store.decisions.get("d2") == before
    assert ids(store.decisions.newest()) in (["d1", "d2"], ["d2", "d1"])


def test_open_decisions_are_listed_the_oldest_first(store: Store) -> None:
    for id, at in (("d3", 3.0), ("d1", 1.0), ("d2", 2.0), ("d4", 4.0)):
        store.decisions.record(decision(id, "a", at=at))
    store.decisions.finish("d4", outcome="done")
    assert ids(store.decisions.accepted(since=2.0)) == ["d2", "d3"]
    assert ids(store.decisions.accepted(since=0.0)) == ["d1", "d2", "d3"]


def test_decisions_on_a_twin_are_listed_with_its_model(store: Store) -> None:
    store.decisions.record(decision("d1", "a@2"))
    for name in ("a@2", "a"):
        assert ids(store.decisions.newest(model=name)) == ["d1"]
    assert ids(store.decisions.newest(model="a", advised=True)) == []


def test_as_many_decisions_as_are_kept_stay(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "KEPT", 2)
    for number in range(2):
        store.decisions.record(decision(f"d{number}", "a", at=float(number)))
    store.decisions.prune()
    assert ids(store.decisions.newest()) == ["d1", "d0"]
