"""Two versions side by side: the rows of a model and of its twin."""

from __future__ import annotations

import pytest

from modelium.errors import IllegalTransition
from modelium.lifecycle import ModelState
from modelium.models import Unload
from modelium.store import Store
from tests.modelium.store.test_rows import (
    NOW,
    accept,
    changes,
    load,
    ready,
    register,
    rows,
    store,
)

pytestmark = pytest.mark.slow

__all__ = ["store"]


@pytest.fixture
def switching(store: Store) -> Store:
    """A third version of ``ready`` that is loaded beside the second."""
    register(store, "ready", 4)
    store.twins.stand_by("ready")
    ready(store, "ready@4")
    return store


def test_a_twin_that_is_there_stays(store: Store) -> None:
    made = store.twins.stand_by("ready")
    assert (made.name, made.twin_of, made.state) == ("ready@2", "ready", ModelState.ANALYZED)
    assert changes(store, lambda s: s.twins.stand_by("ready")) == {}


def test_an_exchange_swaps_what_is_loaded(switching: Store) -> None:
    old, new = switching.model("ready").deployment, switching.model("ready@4").deployment
    assert old is not None and new is not None
    switching.states.requeue("other", reason="r")
    served = switching.twins.exchange("ready", "ready@4", reason="newer")
    assert (served.version, served.state, served.state_since) == (4, ModelState.READY, NOW)
    assert (served.reason, served.queued_at) == ("newer", None)
    assert served.deployment == new.model_copy(update={"model": "ready"})
    aside = switching.model("ready@2")
    assert (aside.version, aside.state, aside.reason) == (2, ModelState.READY, "newer")
    assert aside.deployment == old.model_copy(update={"model": "ready@2"})
    assert (aside.pinned, aside.failures, aside.twin_of) == (False, 0, "ready")
    assert switching.find("ready@4") is None
    assert [b.model for b in switching.view()[2]] == ["coming", "going", "ready", "ready@2"]


def test_an_exchange_for_what_is_not_loaded_leaves_no_twin(switching: Store) -> None:
    switching.states.requeue("ready", reason="r")
    served = switching.twins.exchange("ready", "ready@4", reason="newer")
    assert (served.version, served.state, served.queued_at) == (4, ModelState.READY, None)
    assert {name for _, name, *_ in rows(switching) if str(name).startswith("ready@")} == set()


def test_an_exchange_needs_both_to_be_settled(store: Store) -> None:
    store.twins.stand_by("other")
    with pytest.raises(IllegalTransition, match="other is ready and other@2 is analyzed"):
        store.twins.exchange("other", "other@2", reason="")
    load(store, "other@2")
    accept(store, Unload(model="other", reason=""))
    with pytest.raises(IllegalTransition, match="other is draining and other@2 is loading"):
        store.twins.exchange("other", "other@2", reason="")
    store.states.cancel_eviction("other", reason="")
    store.lineage.begin_removal("other", by="me", purge=False)
    with pytest.raises(IllegalTransition, match="other is ready and other@2 is loading"):
        store.twins.exchange("other", "other@2", reason="")
    assert store.model("other").version == 2


def test_a_twin_that_is_still_loading_may_serve(store: Store) -> None:
    register(store, "other", 3)
    store.twins.stand_by("other")
    load(store, "other@3")
    assert store.twins.exchange("other", "other@3", reason="newer").state is ModelState.READY


def test_a_twin_is_dropped_with_what_was_measured_of_it_alone(switching: Store) -> None:
    with pytest.raises(IllegalTransition, match="ready@4 is ready, and cannot be dropped"):
        switching.twins.drop("ready@4")
    switching.states.requeue("ready@4", reason="r")
    assert changes(switching, lambda s: s.twins.drop("ready@4")) == {("models", "ready@4"): None}
    assert changes(switching, lambda s: s.twins.drop("ready@4")) == {}
    with pytest.raises(IllegalTransition, match="idle is analyzed, and cannot be dropped"):
        switching.twins.drop("idle")
