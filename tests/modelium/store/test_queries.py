"""What accepted actions and the lifecycle table mean for the rows."""

from __future__ import annotations

import pytest

from modelium.errors import IllegalTransition, UnknownModel
from modelium.lifecycle import ModelState
from modelium.models import (
    Action,
    Load,
    Plan,
    Preference,
    Priority,
    Queue,
    Reject,
    RuntimeName,
    Trigger,
)
from modelium.store import Store, queries
from tests.fakes.clock import FakeClock
from tests.modelium.store.test_store import register


def accept(store: Store, action: Action, **preferences: Preference) -> None:
    plan = Plan(
        author="rules",
        trigger=Trigger.DEMAND,
        actions=(action,),
        preferences=preferences,
        revision=store.revision(),
    )
    store.accept(plan, snapshot_digest="d", trace={})


def load(model: str, *, reserve: int = 5, priority: Priority = Priority.LOW) -> Load:
    return Load(
        model=model,
        runtime=RuntimeName.RAY_SERVE,
        devices=("n/cpu",),
        reserve={"n/cpu": reserve},
        priority=priority,
        reason="asked",
    )


def test_a_queued_model_keeps_its_place_in_time(store: Store, clock: FakeClock) -> None:
    register(store, "a")
    accept(store, Queue(model="a", reason="full"))
    first = store.model("a")
    clock.advance(50)
    accept(store, Queue(model="a", reason="still full", priority=Priority.HIGH))
    again = store.model("a")
    assert first.queued_at is not None
    assert again.queued_at == first.queued_at
    assert (again.reason, again.priority) == ("still full", Priority.HIGH)


def test_a_model_that_leaves_the_queue_loses_its_place(store: Store) -> None:
    register(store, "a")
    accept(store, Queue(model="a", reason="full"))
    accept(store, load("a", priority=Priority.MEDIUM))
    model = store.model("a")
    assert (model.state, model.queued_at) == (ModelState.LOADING, None)
    assert model.priority is Priority.MEDIUM


def test_a_rejected_model_is_failed_with_its_reason(store: Store) -> None:
    register(store, "a")
    accept(store, Reject(model="a", reason="too large"))
    model = store.model("a")
    assert (model.state, model.reason) == (ModelState.FAILED, "too large")


def test_a_preference_belongs_to_the_current_version(store: Store) -> None:
    register(store, "a")
    wish = Preference(runtime=RuntimeName.RAY_SERVE)
    accept(store, load("a"), a=wish)
    assert store.model("a").preference == wish
    store.states.cancel_load("a", reason="")
    register(store, "a", digest="sha256:2")
    assert store.model("a").preference is None


def test_models_are_read_by_name_and_with_what_belongs_to_them(store: Store) -> None:
    for name in ("b", "a"):
        register(store, name)
    store.rules.approve("a", digest=store.model("a").digest, what=["pickle"])
    accept(store, load("b"))
    _revision, (first, second), (booking,) = store.view()
    assert (first.name, second.name, booking.model) == ("a", "b", "b")
    assert first == store.model("a") and second == store.model("b")
    assert first.deployment is None and second.deployment is not None


def test_a_state_changes_along_the_lifecycle_table_alone(store: Store) -> None:
    register(store, "a")
    with store._engine.begin() as tx:
        with pytest.raises(IllegalTransition, match="analyzed → unloading"):
            queries.transition(tx, "a", ModelState.UNLOADING, 5.0)
        with pytest.raises(UnknownModel):
            queries.transition(tx, "nobody", ModelState.QUEUED, 5.0)
        queries.transition(tx, "a", ModelState.LOADING, 5.0, reason="asked")
    model = store.model("a")
    assert (model.state, model.state_since, model.reason) == (ModelState.LOADING, 5.0, "asked")
