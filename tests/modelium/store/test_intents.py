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
