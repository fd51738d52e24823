"""What operators asked for, and its outcome."""

from __future__ import annotations

import pytest

from modelium.errors import InputError
from modelium.models import Intent
from modelium.store import Store


def test_an_intent_is_replaced_by_its_outcome(store: Store) -> None:
    asked = store.intents.save(Intent(id="i1", at=1.0, kind="load", model="a"))
    assert store.intents.get("i1") == asked
    ended = asked.model_copy(update={"state": "failed", "detail": "no memory"})
    store.intents.save(ended)
    assert store.intents.get("i1") == ended
    assert store.intents.newest() == [ended]


def test_the_newest_intents_come_first(store: Store) -> None:
    for number in range(3):
        store.intents.save(Intent(id=f"i{number}", at=float(number), kind="load"))
    assert [intent.id for intent in store.intents.newest(limit=2)] == ["i2", "i1"]


def test_an_unknown_intent_is_refused(store: Store) -> None:
    with pytest.raises(InputError, match="'i1'"):
        store.intents.get("i1")


def test_pending_intents_are_listed_the_oldest_first_until_they_end(store: Store) -> None:
    for id, at in (("i2", 2.0), ("i1", 1.0), ("i3", 3.0)):
        store.intents.save(Intent(id=id, at=at, kind="load", parameters={"key": id}))
    store.intents.save(Intent(id="i3", at=3.0, kind="load", state="done", detail="ready"))
    assert [intent.id for intent in store.intents.pending()] == ["i1", "i2"]
    for id in ("i1", "i3", "unknown"):
        store.intents.abandon(id, detail="restarted")
    assert [intent.id for intent in store.intents.pending()] == ["i2"]
    ended = store.intents.get("i1")
    assert (ended.state, ended.detail, ended.parameters) == ("failed", "restarted", {"key": "i1"})
    assert ended.finished_at is not None
    assert store.intents.get("i3").detail == "ready"
