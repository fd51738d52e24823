"""What the operator has switched and declared."""

from __future__ import annotations

from modelium.store import Store
from tests.modelium.store.test_rows import Key, changes, store

__all__ = ["store"]


def test_a_pause_is_known_until_it_ends(store: Store) -> None:
    assert store.rules.idle_pause() is None
    store.rules.set_idle_pause(7.9)
    assert store.rules.idle_pause() == 7.0
    store.rules.set_idle_pause(None)
    assert store.rules.idle_pause() is None


def test_what_came_with_a_drop_is_known_of_models_and_not_of_twins(store: Store) -> None:
    store.twins.stand_by("ready")
    asked = store.rules.asked()
    assert asked == {
        "failed": {}, "going": {}, "coming": {}, "other": {},
        "idle": {"team": "t"}, "ready": {"team": "t"},
    }  # fmt: skip


def test_a_declaration_is_given_where_it_is_not_what_it_was(store: Store) -> None:
    wanted = {
        "other": {"team": "x", "pinned": True},
        "idle": {"team": "t"},
        "ready": {"team": "u", "pinned": False},
        "failed": {"team": "x"},
    }
    changed: list[str] = []
    made = changes(
        store,
        lambda s: changed.extend(
            s.rules.apply_standings(wanted, named={"other": frozenset({"pinned"})})
        ),
    )
    expected: dict[Key, dict[str, object]] = {
        ("models", "other"): {"pinned": True},
        ("models", "ready"): {"team": "u"},
        ("standings", "other"): {"model": "other", "asked": {}, "declared": wanted["other"]},
        ("standings", "ready"): {"declared": wanted["ready"]},
        ("standings", "failed"): {"model": "failed", "asked": {}, "declared": wanted["failed"]},
    }
    assert made == expected
    assert changed == ["other", "ready"]
    assert store.rules.apply_standings(wanted, named={}) == []
