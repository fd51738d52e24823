"""Versions: which are kept, which is current, and what a removal leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config as AlembicConfig

from modelium.errors import IllegalTransition, InputError, Unavailable, UnknownModel
from modelium.lifecycle import ModelState
from modelium.models import Priority
from modelium.store import Store, new_id
from modelium.store.connection import MIGRATIONS, connect
from tests.modelium.store.test_rows import (
    BEFORE,
    NOW,
    changes,
    freed,
    load,
    model,
    ready,
    register,
    rows,
    store,
    version,
)

pytestmark = pytest.mark.slow

__all__ = ["store"]


def numbers(store: Store, name: str | None = None, *, removed: bool = False) -> list[str]:
    return [f"{v.model}@{v.version}" for v in store.lineage.versions(name, removed=removed)]


def test_ids_are_short_and_unique() -> None:
    made = {new_id() for _ in range(100)}
    assert len(made) == 100
    assert {len(one) for one in made} == {12}


def test_versions_are_listed_by_model_the_newest_first(store: Store) -> None:
    store.lineage.retire("ready", [1], by="me")
    assert numbers(store, "ready") == ["ready@2"]
    assert numbers(store, "ready", removed=True) == ["ready@1"]
    assert numbers(store)[:5] == ["coming@2", "coming@1", "failed@2", "failed@1", "going@2"]
    assert numbers(store, removed=True) == ["ready@1"]


def test_a_version_is_registered_under_its_folders_number_where_that_is_free(store: Store) -> None:
    given = {"path": Path("/x"), "team": None, "pinned": False}
    terms = {"priority": Priority.LOW, "priority_ceiling": Priority.LOW}
    found = store.register("idle", digest="x", version=7, **given, **terms)  # type: ignore[arg-type]
    assert (found.version, found.path, found.state) == (7, "/x", ModelState.INGESTED)
    found = store.register("idle", digest="y", version=7, **given, **terms)  # type: ignore[arg-type]
    assert (found.version, found.digest) == (8, "y")
    found = store.register("idle", digest="z", version=5, **given, **terms)  # type: ignore[arg-type]
    assert (found.version, found.digest) == (8, "y"), "an older one does not become current"
    assert numbers(store, "idle") == ["idle@8", "idle@7", "idle@5", "idle@2", "idle@1"]
    found = store.register("idle", digest="y", version=9, **given, **terms)  # type: ignore[arg-type]
    assert (found.version, found.digest) == (9, "y"), "of the same content, at another place"
    assert store.lineage.next_version("idle") == 10


def test_a_pin_outlives_what_is_dropped_unpinned(store: Store) -> None:
    store.rules.set_pinned("idle", True)
    register(store, "idle", 3)
    assert store.model("idle").pinned


def test_a_number_that_is_reserved_or_removed_is_not_given_again(store: Store) -> None:
    assert [store.lineage.next_version(name) for name in ("ready", "other", "new")] == [4, 3, 1]
    store.lineage.choose("failed", 1)
    store.lineage.retire("failed", [2], by="me")
    assert store.lineage.next_version("failed") == 3


def test_a_version_is_moved_only_while_it_is_kept(store: Store) -> None:
    assert store.lineage.relocate("ready", 1, digest="ready1", path=Path("/new")) is True
    store.lineage.retire("ready", [1], by="me")
    assert store.lineage.relocate("ready", 1, digest="ready1", path=Path("/newer")) is False
    assert store.lineage.paths()["/new"] == ("ready", 1)
    assert changes(store, lambda s: s.lineage.note_moved("ready", 1, "/trash")) == version(
        "ready", 1, path="/trash"
    )


def test_names_are_those_that_are_served(store: Store) -> None:
    store.twins.stand_by("other")
    store.lineage.begin_removal("idle", by="me", purge=False)
    served = {"failed": 2, "going": 2, "coming": 2, "ready": 2, "other": 2}
    assert store.versions() == served
    assert store.names() == served.keys()


def test_a_removal_is_asked_for_once_and_leaves_the_queue(store: Store) -> None:
    store.states.requeue("ready", reason="r")
    first = store.lineage.begin_removal("ready", by="me", purge=False)
    assert (first.state, first.queued_at) == (ModelState.UNLOADED, None)
    assert changes(store, lambda s: s.lineage.begin_removal("ready", by="you", purge=True)) == {}
    with pytest.raises(Unavailable, match="ready is being removed"):
        store.lineage.choose("ready", 1)
    said = "ready is being removed; it can be dropped again afterwards"
    with pytest.raises(Unavailable, match=said):
        register(store, "ready", 3)
    with pytest.raises(UnknownModel):
        store.lineage.begin_removal("nobody", by="me", purge=False)


def test_a_removal_covers_the_twin(store: Store) -> None:
    store.twins.stand_by("ready")
    store.lineage.begin_removal("ready", by="me", purge=False)
    assert store.model("ready@2").removal == store.model("ready").removal
    assert store.model("ready").removal is not None
    assert store.model("other").removal is None
    store.states.requeue("ready", reason="r")
    with pytest.raises(
        IllegalTransition, match="ready@2 is to be dropped before ready is forgotten"
    ):
        store.lineage.finish_removal("ready")


def test_a_removed_model_is_forgotten_with_what_was_measured_of_it(store: Store) -> None:
    store.lineage.retire("idle", [1], by="x")
    store.lineage.begin_removal("idle", by="me", purge=True)
    gone = []
    made = changes(store, lambda s: gone.extend(s.lineage.finish_removal("idle")))
    assert made == {
        ("models", "idle"): None,
        ("measured", "idle", "vllm", "H100", "d"): None,
        ("traffic", "", "idle"): None,
        ("standings", "idle"): None,
        **version("idle", 2, removed_at=NOW, removed_by="me", purge=True, team="t"),
    }
    assert [(v.version, v.removed_by) for v in gone] == [(2, "me")]
    assert store.lineage.finish_removal("idle") == []
    assert numbers(store, "idle", removed=True) == ["idle@2", "idle@1"]


@pytest.mark.parametrize("name", ["ready", "going", "coming"])
def test_what_is_loaded_is_not_forgotten(store: Store, name: str) -> None:
    with pytest.raises(IllegalTransition, match=f"{name} is .*, and cannot be forgotten"):
        store.lineage.finish_removal(name)
    store.lineage.begin_removal(name, by="me", purge=False)
    with pytest.raises(IllegalTransition, match=f"{name} is .*, and cannot be forgotten"):
        store.lineage.finish_removal(name)


def test_what_nobody_asked_to_remove_is_not_forgotten(store: Store) -> None:
    with pytest.raises(IllegalTransition, match="idle is analyzed, and cannot be forgotten"):
        store.lineage.finish_removal("idle")


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ([2, 1], "version 2 of ready is in use"),
        ([9, 1, 8], "ready has no version 8"),
    ],
)
def test_versions_in_use_or_not_kept_are_not_retired(
    store: Store, wanted: list[int], told: str
) -> None:
    before = rows(store)
    with pytest.raises(InputError) as refused:
        store.lineage.retire("ready", wanted, by="me")
    assert str(refused.value) == told
    assert rows(store) == before


def test_a_version_that_is_loaded_or_stands_by_is_in_use(store: Store) -> None:
    register(store, "ready", 4)
    register(store, "other", 3)
    store.twins.stand_by("other")
    store.lineage.choose("other", 1)
    for name, number in (("ready", 2), ("other", 3), ("other", 2), ("other", 1)):
        with pytest.raises(InputError, match=f"version {number} of {name} is in use"):
            store.lineage.retire(name, [number], by="me")
    store.lineage.retire("ready", [1], by="me")


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (2, "version 2 of ready is the current one already"),
        (1, "version 1 of ready is not kept; kept: 2, 4"),
        (9, "version 9 of ready is not kept; kept: 2, 4"),
    ],
)
def test_only_another_kept_version_is_chosen(store: Store, number: int, told: str) -> None:
    register(store, "ready", 4)
    store.lineage.choose("ready", 2)
    store.lineage.retire("ready", [1], by="me")
    with pytest.raises(InputError) as refused:
        store.lineage.choose("ready", number)
    assert str(refused.value) == told


def test_a_chosen_version_of_a_waiting_model_is_looked_at_anew(store: Store) -> None:
    store.states.requeue("ready", reason="r")
    found = store.lineage.choose("ready", 1)
    assert (found.version, found.state, found.queued_at) == (1, ModelState.INGESTED, None)


def test_a_seal_is_that_of_one_version(store: Store) -> None:
    store.lineage.set_seal("ready", 1, "s")
    assert [store.lineage.seal("ready", n) for n in (1, 2, 9)] == ["s", None, None]
    assert store.lineage.seal("other", 1) is None


def test_the_first_proof_stands(store: Store) -> None:
    proven = {(v.model, v.version): v.proven_at for v in store.lineage.versions()}
    assert proven["ready", 2] == BEFORE and proven["ready", 1] is None
    store.lineage.prove("ready", 2)
    store.lineage.prove("ready", 1)
    proven = {(v.model, v.version): v.proven_at for v in store.lineage.versions("ready")}
    assert proven == {("ready", 2): BEFORE, ("ready", 1): NOW}


def test_a_version_is_proven_by_loading_where_no_other_kept_one_is(store: Store) -> None:
    def proven() -> list[int]:
        found = store.lineage.versions("ready") + store.lineage.versions("ready", removed=True)
        return sorted(v.version for v in found if v.proven_at is not None)

    register(store, "ready", 4)
    store.states.requeue("ready", reason="r")
    ready(store, "ready")
    assert proven() == [2], "it can return to that one"
    store.lineage.retire("ready", [2], by="me")
    store.states.requeue("ready", reason="r")
    ready(store, "ready")
    assert proven() == [2, 4]


def test_a_reservation_of_a_taken_number_is_refused(store: Store) -> None:
    (held,) = store.reservations.all("ready")
    assert [r.model for r in store.reservations.all()] == ["idle", "ready"]
    said = "is taken by another drop; try again"
    for taken in (held, held.model_copy(update={"version": 2})):
        with pytest.raises(Unavailable, match=f"version {taken.version} of ready {said}"):
            store.reservations.add(taken)
    store.reservations.drop(held)
    store.reservations.add(held)


def test_a_load_takes_the_place_of_bookings_that_were_left(store: Store) -> None:
    store.states.requeue("ready", reason="r")
    made = changes(store, lambda s: load(s, "ready"))
    assert made["bookings", "ready", "n/0"] == {
        "model": "ready", "device": "n/0", "bytes": 5, "resident_bytes": 0, "releasing": False,
    }  # fmt: skip
    assert changes(store, lambda s: s.states.cancel_load("ready", reason="r")) == {
        **model("ready", state="unloaded", reason="r"),
        **freed("ready"),
    }


@pytest.mark.parametrize(
    "ask",
    [
        lambda s: s.states.forgive("nobody"),
        lambda s: s.rules.set_pinned("nobody", True),
        lambda s: s.model("nobody"),
        lambda s: s.lineage.choose("nobody", 1),
        lambda s: s.twins.stand_by("nobody"),
    ],
)
def test_what_is_not_there_is_unknown(store: Store, ask: Callable[[Store], object]) -> None:
    with pytest.raises(UnknownModel) as told:
        ask(store)
    assert str(told.value) == "no model is called 'nobody'; `modelium ls` lists the models"
    assert store.find("nobody") is None


def test_whose_a_removed_version_was_is_kept_with_it(store: Store) -> None:
    terms = {"priority": Priority.LOW, "priority_ceiling": Priority.LOW, "pinned": False}
    for number in (1, 2):
        digest = f"sha256:{number}"
        store.register("own", path=Path(f"/own{number}"), digest=digest, team="lab", **terms)  # type: ignore[arg-type]
    store.lineage.retire("own", [1], by="me")
    assert [v.team for v in store.lineage.versions("own", removed=True)] == ["lab"]
    assert [v.team for v in store.lineage.versions("own")] == [None], "the model itself says it"
    store.lineage.begin_removal("own", by="me", purge=False)
    assert [v.team for v in store.lineage.finish_removal("own")] == ["lab"]


def test_a_store_of_before_keeps_what_was_removed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'old.db'}"
    config = AlembicConfig()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = connect(url)
    with engine.begin() as tx:
        config.attributes["connection"] = tx
        command.upgrade(config, "0011")
        row = {"model": "m", "version": 3, "path": "/m", "digest": "d", "registered_at": 1.0}
        removed = {"removed_at": 2.0, "removed_by": "me", "purge": False}
        table = sa.table("versions", *(sa.column(name) for name in {**row, **removed}))
        tx.execute(sa.insert(table).values(**row, **removed))
    engine.dispose()
    opened = Store.open(url, now=lambda: 5.0)
    (old,) = opened.lineage.versions(removed=True)
    assert (old.model, old.version, old.removed_by, old.team) == ("m", 3, "me", None)
    opened.close()
