"""The store on an event loop: the same methods, each on a thread."""

from __future__ import annotations

import asyncio
import inspect
import threading
from pathlib import Path
from typing import Any

import pytest

from modelium.errors import InputError, UnknownModel
from modelium.models import Event, Priority
from modelium.store import AsyncStore, Store
from modelium.store.async_store import WORKERS, Face
from modelium.store.connection import connect
from tests.fakes.clock import FakeClock


def register(store: Store) -> None:
    store.register(
        "a",
        path=Path("/models/a"),
        digest="sha256:1",
        team="research",
        priority=Priority.LOW,
        priority_ceiling=Priority.MEDIUM,
        pinned=False,
    )


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
    register(store)
    assert (await AsyncStore(store).rules.set_pinned("a", True)).pinned
    assert store.model("a").pinned


def test_each_method_is_the_blocking_one_of_that_name(store: Store) -> None:
    whole = AsyncStore(store)
    faces = [whole, *(part for part in vars(whole).values() if isinstance(part, Face))]
    assert len(faces) == 18
    for face in faces:
        for name, method in inspect.getmembers(type(face), inspect.iscoroutinefunction):
            blocking = inspect.unwrap(method)
            assert blocking is getattr(type(face.blocking), name), name


ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "model": ("a",),
    "find": ("a",),
    "approvals": ("sha256:1",),
    "by_hour": (3,),
    "accepted": (0.0,),
    "class_failures": (0.0, {}),
    "since": (0.0,),
    "of_models": (["a"],),
    "strays": ("n",),
    "answered": ("none",),
    "due_on": ("n",),
    "of": ("a",),
    "on": ("n",),
}
"""Of the reading methods that take some."""

UNKNOWN = {"AsyncDecisions.get": "no decision", "AsyncIntents.get": "no intent"}
"""What those say that read one row by an id of which there is none here."""


async def test_no_read_waits_for_a_writer(store: Store, url: str) -> None:
    register(store)
    whole = AsyncStore(store)
    other = connect(url)
    with other.begin():
        # More writers than threads: the last ones have not even begun.
        waiting = [asyncio.create_task(whole.events.append("x")) for _ in range(2 * WORKERS)]
        read = await read_everything(whole)
        assert {"AsyncStore.view", "AsyncStore.find", "AsyncKeys.by_hash"} <= read
        assert not any(task.done() for task in waiting)
    await asyncio.gather(*waiting)
    other.dispose()
    assert len(store.events.newest()) == 2 * WORKERS


async def read_everything(whole: AsyncStore) -> set[str]:
    """Call every reading method; return their names."""
    called = set()
    for face in (whole, *(part for part in vars(whole).values() if isinstance(part, Face))):
        for name, method in inspect.getmembers(face, inspect.iscoroutinefunction):
            if not getattr(method, "reads", False):
                continue
            called.add(full := f"{type(face).__name__}.{name}")
            if full in UNKNOWN:
                with pytest.raises(InputError, match=UNKNOWN[full]):
                    await method("none")
            else:
                await method(*ARGUMENTS.get(name, ()))
    return called
