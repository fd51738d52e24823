"""Times in the future are those of a clock that was set back."""

from __future__ import annotations

import sqlalchemy as sa

from modelium.models import Traffic
from modelium.store import Store, schema
from tests.modelium.store.test_rows import NOW, changes, store

__all__ = ["store"]

LATER, PAUSE_S = NOW + 500.0, 100.0


def set_times(store: Store, name: str, at: float) -> None:
    columns = dict.fromkeys(("state_since", "evicted_at", "queued_at", "retry_at"), at)
    with store._engine.begin() as tx:
        tx.execute(sa.update(schema.models).where(schema.models.c.name == name).values(**columns))


def test_what_lies_in_the_future_is_moved_to_the_present(store: Store) -> None:
    for name, at in (("idle", LATER), ("other", NOW)):
        set_times(store, name, at)
    for name, at in (("ready", LATER), ("going", NOW)):
        deployment = store.model(name).deployment
        assert deployment is not None
        times = {"started_at": at, "ready_at": at}
        store.states.mark_moved(deployment.model_copy(update=times))
    seen = {"ready": LATER, "other": NOW, "idle": None}
    store.history.record_traffic(
        {name: Traffic(completed=5, last_request_at=at) for name, at in seen.items()}
    )
    found = changes(store, lambda s: s.clamp_times(longest_pause_s=PAUSE_S))
    loaded, traffic = found.pop(("deployments", "ready")), found.pop(("traffic", "", "ready"))
    assert loaded is not None and traffic is not None
    times = {key: value for key, value in loaded["document"].items() if key.endswith("_at")}
    assert times == {"started_at": NOW, "ready_at": NOW}
    assert traffic["document"]["last_request_at"] == NOW
    assert traffic["document"]["completed"] == 5
    assert found == {
        ("models", "idle"): {
            "state_since": NOW, "evicted_at": NOW, "queued_at": NOW, "retry_at": NOW + PAUSE_S,
        }
    }  # fmt: skip
