"""The store on an event loop: the same methods, each on a thread."""

from __future__ import annotations

import inspect
import threading
from pathlib import Path

import pytest

from modelium.errors import UnknownModel
from modelium.models import Event, Priority
from modelium.store import AsyncStore, Store
from modelium.store.async_store import Face
from tests.fakes.clock import FakeClock


async def test_methods_run_on_another_thread_and_return_its_result(
    url: str, clock: FakeClock
) -> None:
    threads: list[int] = []

    def on_event(event: Event) -> None:
        threads.append(threading.get_ident())

    store = Store.open(url, now=clock.time, on_event=on_event)
    event = await AsyncStore(store).events.append("model.ready", model="a", load_s=1.5)
    assert event.detail == {"load_s": 1.5}
    assert store.events.newest() == [event]
    assert threads and threading.get_ident() not in threads
    store.close()


async def test_errors_are_raised_unchanged(store: Store) -> None:
    with pytest.raises(UnknownModel, match="nobody"):
        await AsyncStore(store).model("nobody")


async def test_arguments_are_handed_on(store: Store) -> None:
    store.register(
        "a",
        path=Path("/models/a"),
        digest="sha256:1",
        team="research",
        priority=Priority.LOW,
        priority_ceiling=Priority.MEDIUM,
        pinned=False,
    )
    assert (await AsyncStore(store).set_pinned("a", True)).pinned
    assert store.model("a").pinned


def test_each_method_is_the_blocking_one_of_that_name(store: Store) -> None:
    whole = AsyncStore(store)
    faces = [whole, *(part for part in vars(whole).values() if isinstance(part, Face))]
    assert len(faces) == 10
    for face in faces:
        for name, method in inspect.getmembers(type(face), inspect.iscoroutinefunction):
            blocking = inspect.unwrap(method)
            assert blocking is getattr(type(face.blocking), name), name
