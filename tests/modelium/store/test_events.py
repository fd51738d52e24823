"""The log of events, and who listens to it."""

from __future__ import annotations

import pytest

from modelium.models import Event, Traffic
from modelium.store import Store, events
from tests.fakes.clock import FakeClock


def test_an_event_is_stored_and_reported(url: str, clock: FakeClock) -> None:
    heard: list[Event] = []
    store = Store.open(url, now=clock.time, on_event=heard.append)
    made = store.events.append("model.ready", model="a", load_s=1.5)
    assert heard == [made]
    assert store.events.newest() == [made]
    store.close()


def test_events_are_listed_by_model_and_from_an_id_on(store: Store) -> None:
    first = store.events.append("model.ready", model="a")
    second = store.events.append("model.ready", model="b")
    third = store.events.append("key.issued", key="k")
    assert store.events.newest() == [third, second, first]
    assert store.events.newest(limit=1) == [third]
    assert store.events.newest(model="a") == [first]
    assert store.events.newest(after=first.id) == [third, second]


def test_events_and_traffic_survive_a_restart(url: str, clock: FakeClock) -> None:
    store = Store.open(url, now=clock.time)
    store.history.record_traffic({"a": Traffic(completed=3)})
    store.history.record_traffic({"a": Traffic(completed=5)})
    store.events.append("model.ready", model="a", load_s=1.5)
    store.close()
    again = Store.open(url, now=clock.time)
    assert again.history.traffic()["a"].completed == 5
    (event,) = again.events.newest(model="a")
    assert event.kind == "model.ready" and event.detail == {"load_s": 1.5}
    again.close()


def test_the_oldest_events_are_pruned(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "KEPT", 2)
    for number in range(4):
        store.events.append("model.ready", number=number)
    store.events.prune()
    assert [event.detail["number"] for event in store.events.newest()] == [3, 2]
