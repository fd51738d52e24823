"""When the watcher looks at drops, to the second, and what costs no other drop."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from watchdog.events import DirModifiedEvent, FileMovedEvent, FileOpenedEvent, FileSystemEvent
from watchdog.observers.api import BaseObserver

from modelium.intake import file_events
from modelium.intake import watcher as module
from modelium.intake.fingerprint import fingerprint
from modelium.models import DropState
from tests.modelium.intake.zone import GIVE_UP_S, QUIET_S, RESCAN_S, ManualClock, Zone


@pytest.fixture
def clock() -> ManualClock:
    clock = ManualClock()
    clock.now = float(round(clock.now))
    return clock


@pytest.fixture
def zone(tmp_path: Path, clock: ManualClock) -> Zone:
    return Zone(tmp_path, clock=clock)


class Looks:
    """Says of every drop what it lacks, and notes when it was asked."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.began = clock.now
        self.missing: str | None = "a shard is missing"
        self.at: list[float] = []

    def __call__(self, _path: Path) -> str | None:
        self.at.append(self.clock.now - self.began)
        if self.missing == "broken":
            raise RecursionError("deeper than the stack")
        return self.missing


@pytest.fixture
def looks(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> Looks:
    made = Looks(clock)
    monkeypatch.setattr("modelium.analysis.is_complete", made)
    return made


async def poll_until(zone: Zone, clock: ManualClock, seconds: float, step: float = 1.0) -> None:
    end = clock.now + seconds
    while clock.now < end:
        await zone.watcher.poll()
        clock.now += step


@pytest.mark.parametrize(
    ("quiet_s", "rescan_s", "at"),
    [(5.0, 30.0, [5.0, 35.0, 65.0]), (30.0, 5.0, [30.0, 60.0, 90.0]), (0.0, 1.0, [0, 1, 2])],
)
async def test_an_incomplete_drop_is_examined_again_after_the_longer_interval(
    tmp_path: Path,
    clock: ManualClock,
    looks: Looks,
    quiet_s: float,
    rescan_s: float,
    at: list[float],
) -> None:
    zone = Zone(tmp_path, clock=clock, quiet_s=quiet_s, rescan_s=rescan_s)
    (tmp_path / "m").touch()
    await poll_until(zone, clock, at[-1] + 1)
    assert looks.at == at
    assert zone.lacking == [("m", "a shard is missing")]


@pytest.mark.parametrize(("quiet_s", "look_s"), [(5.0, 5.0), (0.25, 1.0)])
async def test_an_incomplete_drop_is_looked_at_between(
    tmp_path: Path,
    clock: ManualClock,
    looks: Looks,
    monkeypatch: pytest.MonkeyPatch,
    quiet_s: float,
    look_s: float,
) -> None:
    """Whether it has changed: each quiet period, but not more often than every second."""
    zone = Zone(tmp_path, clock=clock, quiet_s=quiet_s)
    (tmp_path / "m").touch()
    await poll_until(zone, clock, quiet_s + 0.25, step=0.25)
    assert looks.at == [quiet_s]
    seen: list[float] = []

    def noting(path: Path) -> object:
        seen.append(clock.now - looks.began)
        return fingerprint(path)

    monkeypatch.setattr(module, "fingerprint", noting)
    await poll_until(zone, clock, 3 * look_s, step=0.25)
    assert seen == [quiet_s + look_s, quiet_s + 2 * look_s, quiet_s + 3 * look_s]


async def test_what_comes_without_a_change_completes_a_drop_and_it_is_left_alone(
    zone: Zone, clock: ManualClock, looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    (zone.folder / "m").touch()
    await poll_until(zone, clock, QUIET_S + 1)
    looks.missing = None
    await poll_until(zone, clock, RESCAN_S)
    assert zone.reported == [zone.folder / "m"]
    monkeypatch.setattr(module, "fingerprint", None)  # nobody looks
    await poll_until(zone, clock, RESCAN_S - QUIET_S - 2)


async def test_another_reason_is_reported_and_the_same_one_is_not(
    zone: Zone, clock: ManualClock, looks: Looks
) -> None:
    (zone.folder / "m").touch()
    for missing in ("a", "a", "b", "a"):
        looks.missing = missing
        await poll_until(zone, clock, QUIET_S + RESCAN_S)
    assert zone.lacking == [("m", "a"), ("m", "b"), ("m", "a")]


async def test_a_drop_is_given_up_once_it_is_old_enough(
    zone: Zone, clock: ManualClock, looks: Looks
) -> None:
    drop = zone.folder / "m"
    drop.touch()
    found = fingerprint(drop)
    assert found is not None
    clock.now = found.changed_at + GIVE_UP_S - QUIET_S - 1
    await zone.watcher.poll()
    clock.now += QUIET_S
    await zone.watcher.poll()
    assert len(zone.lacking) == 1
    for _ in range(2):
        clock.now += RESCAN_S
        await zone.watcher.poll()
    assert zone.lacking == 2 * [("m", "a shard is missing")]


async def test_a_clock_that_was_set_back_gives_up_no_drop(
    zone: Zone, clock: ManualClock, looks: Looks
) -> None:
    clock.set_back_by = 2 * GIVE_UP_S
    (zone.folder / "m").touch()
    await zone.watcher.poll()
    for passed_s in (QUIET_S, RESCAN_S):
        clock.now += passed_s
        await zone.watcher.poll()
    assert not zone.watcher._drops["m"].given_up


async def test_a_rescan_is_due_after_its_interval(zone: Zone, clock: ManualClock) -> None:
    await zone.watcher.poll()
    (zone.folder / "m").touch()
    clock.now += RESCAN_S - 1
    await zone.watcher.poll()
    assert zone.pending.all() == []
    clock.now += 1
    await zone.watcher.poll()
    assert [drop.name for drop in zone.pending.all()] == ["m"]
    (zone.folder / "m").unlink()
    clock.now += RESCAN_S - 1
    await zone.watcher.poll()
    assert zone.watcher._drops == {}, "it is gone when it is looked at before its report"
    assert zone.pending.all() == []


async def test_a_rescan_finds_what_is_gone(zone: Zone, clock: ManualClock) -> None:
    drop = zone.folder / "m.gguf"
    drop.touch()
    await poll_until(zone, clock, QUIET_S + 1)
    drop.unlink()
    await poll_until(zone, clock, RESCAN_S)
    assert zone.pending.all() == []


async def test_a_drop_that_returns_unchanged_is_a_new_one(
    zone: Zone, clock: ManualClock, looks: Looks, tmp_path_factory: pytest.TempPathFactory
) -> None:
    looks.missing = None
    drop = zone.folder / "m"
    drop.mkdir()
    (drop / "a").touch()
    inner = os.stat(drop / "a")
    await poll_until(zone, clock, QUIET_S + 1)
    away = tmp_path_factory.mktemp("away") / "m"
    os.rename(drop, away)
    zone.watcher.touch("m")
    await zone.watcher.poll()
    assert zone.watcher._drops == {}
    assert inner.st_ino
    os.rename(away, drop)
    zone.watcher.touch("m")
    await poll_until(zone, clock, QUIET_S + 1)
    assert zone.reported == [drop, drop]


async def test_an_entry_that_cannot_be_looked_at_now_is_looked_at_again(
    zone: Zone, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await zone.watcher.poll()
    (zone.folder / "m").touch()

    def broken(_path: Path) -> None:
        raise OSError(5, "no")

    with monkeypatch.context() as patch:
        patch.setattr(module, "fingerprint", broken)
        zone.watcher.touch("m")
        with pytest.raises(OSError, match="no"):
            await zone.watcher.poll()
    await zone.watcher.poll()
    assert [drop.name for drop in zone.pending.all()] == ["m"]


async def test_an_entry_that_breaks_the_look_waits_for_the_rescan(
    zone: Zone, clock: ManualClock, looks: Looks
) -> None:
    (zone.folder / "m").touch()
    looks.missing = "broken"
    await poll_until(zone, clock, QUIET_S + 2 * RESCAN_S + 1)
    assert looks.at == [QUIET_S, QUIET_S + RESCAN_S, QUIET_S + 2 * RESCAN_S]


async def test_an_arriving_drop_is_noted_as_it_is(zone: Zone) -> None:
    drop = zone.folder / "m.gguf"
    drop.touch()
    await zone.watcher.poll()
    (found,) = zone.pending.all()
    assert (found.name, found.model, found.path) == ("m.gguf", "m", str(drop))
    assert (found.state, found.since) == (DropState.ARRIVING, drop.stat().st_ctime_ns / 1e9)
    assert found.reason == f"examined when none of its files has changed for {QUIET_S:g} s"


# --- events of the file system --------------------------------------------------------------------


def threads() -> list[threading.Thread]:
    """Of observers that run; watchdog shares others between them and keeps them."""
    return [thread for thread in threading.enumerate() if isinstance(thread, BaseObserver)]


@pytest.fixture
def events(tmp_path: Path) -> Iterator[file_events.FileEvents]:
    made = file_events.FileEvents(folder=tmp_path / "incoming", on_change=lambda _name: None)
    (tmp_path / "incoming").mkdir()
    yield made
    made.stop()


def test_one_folder_is_watched_as_long_as_it_is_there(
    events: file_events.FileEvents, tmp_path: Path
) -> None:
    folder = tmp_path / "incoming"
    events.keep(0.0)
    watching = threads()
    assert watching
    events.keep(0.0)
    assert threads() == watching
    folder.rename(tmp_path / "other")
    folder.mkdir()
    events.keep(0.0)
    assert threads()
    assert not set(threads()) & set(watching)
    folder.rmdir()
    events.keep(0.0)
    assert threads() == []


def test_events_that_are_refused_are_asked_for_again_after_a_while(
    events: file_events.FileEvents,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked: list[float] = []
    now = 0.0

    def refused(*_args: object, **_given: object) -> None:
        asked.append(now)
        raise OSError(28, "inotify watch limit reached")

    with monkeypatch.context() as patch:
        patch.setattr("modelium.intake.file_events.Observer.schedule", refused)
        for now in (0.0, 1.0, 59.0, 60.0, 61.0, 120.0):
            events.keep(now)
    assert asked == [0.0, 60.0, 120.0]
    assert caplog.text.count("rescans alone") == 1
    assert threads() == []
    events.keep(180.0)
    assert threads()


async def test_the_watcher_ends_its_threads(tmp_path: Path, clock: ManualClock) -> None:
    zone = Zone(tmp_path, clock=clock)
    slept = asyncio.Event()

    async def sleep(_seconds: float) -> None:
        slept.set()
        await asyncio.sleep(0)

    clock.sleep = sleep  # type: ignore[method-assign]
    running = asyncio.create_task(zone.watcher.run())
    await slept.wait()
    assert threads()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert threads() == []


async def test_a_problem_of_the_drop_zone_is_told_once_until_it_is_over(
    tmp_path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "incoming"
    zone = Zone(folder, clock=clock)
    looked: list[Callable[[], object]] = [
        lambda: None,
        lambda: None,
        folder.mkdir,
        lambda: None,
        folder.rmdir,
        lambda: None,
        lambda: None,
    ]

    async def sleep(_seconds: float) -> None:
        clock.now += RESCAN_S
        if not looked:
            raise asyncio.CancelledError
        looked.pop(0)()

    clock.sleep = sleep  # type: ignore[method-assign]
    with pytest.raises(asyncio.CancelledError):
        await zone.watcher.run()
    assert caplog.text.count("cannot be looked at") == 2


@pytest.mark.parametrize(
    ("event", "names"),
    [
        (DirModifiedEvent("/in"), []),
        (DirModifiedEvent("/in/m"), ["m"]),
        (DirModifiedEvent("/in/m/sub"), ["m"]),
        (DirModifiedEvent("/other/m"), []),
        (DirModifiedEvent("/inn"), []),
        (FileOpenedEvent("/in/m"), []),
        (FileMovedEvent("/in/a", "/in/b"), ["a", "b"]),
        (FileMovedEvent("/other/a", "/in/b"), ["b"]),
        (FileMovedEvent(b"/in/\xff", "/out"), ["\udcff"]),
    ],
)
def test_an_event_is_of_an_entry(event: FileSystemEvent, names: list[str]) -> None:
    found: list[str] = []
    file_events._EventHandler(folder=Path("/in"), on_change=found.append).on_any_event(event)
    assert found == names
