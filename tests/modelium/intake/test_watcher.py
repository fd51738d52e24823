from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path

import pytest

from modelium.analysis import is_complete
from modelium.clock import SystemClock
from modelium.config import Ingest
from modelium.intake.fingerprint import fingerprint
from modelium.intake.pending import PendingDrops
from modelium.intake.watcher import Watcher, arriving
from modelium.models import DropState
from tests.modelium.analysis.files import llama_folder
from tests.modelium.intake.zone import GIVE_UP_S, QUIET_S, RESCAN_S, ManualClock, Zone


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def zone(tmp_path: Path, clock: ManualClock) -> Zone:
    return Zone(tmp_path, clock=clock)


async def test_drop_is_reported_once_after_the_quiet_period(zone: Zone, clock: ManualClock) -> None:
    drop = llama_folder(zone.folder / "m")
    await zone.watcher.poll()
    clock.now += QUIET_S - 0.1
    await zone.watcher.poll()
    assert zone.reported == []
    clock.now += 0.1
    await zone.watcher.poll()
    assert zone.reported == [drop]
    clock.now += 10 * RESCAN_S
    await zone.watcher.poll()
    assert zone.reported == [drop]


async def test_change_restarts_the_quiet_period(zone: Zone, clock: ManualClock) -> None:
    drop = llama_folder(zone.folder / "m")
    await zone.watcher.poll()
    clock.now += QUIET_S - 0.1
    (drop / "tokenizer.json").write_text("{}")
    zone.watcher.touch("m")
    await zone.watcher.poll()
    clock.now += QUIET_S - 0.1
    await zone.watcher.poll()
    assert zone.reported == []
    clock.now += 0.1
    await zone.watcher.poll()
    assert zone.reported == [drop]


async def test_change_without_an_event_is_noticed_before_the_report(
    zone: Zone, clock: ManualClock
) -> None:
    drop = llama_folder(zone.folder / "m")
    await zone.watcher.poll()
    (drop / "tokenizer.json").write_text("{}")
    clock.now += QUIET_S
    await zone.watcher.poll()
    assert zone.reported == []
    clock.now += QUIET_S
    await zone.watcher.poll()
    assert zone.reported == [drop]


async def test_incomplete_drop_is_reported_once_and_waits_for_its_missing_part(
    zone: Zone, clock: ManualClock
) -> None:
    drop = llama_folder(zone.folder / "m", shards=2)
    missing = drop / "model-00002-of-00002.safetensors"
    content = missing.read_bytes()
    missing.unlink()
    await zone.watcher.poll()
    for _ in range(3):
        clock.now += RESCAN_S
        await zone.watcher.poll()
    assert zone.reported == []
    lacks = "model-00002-of-00002.safetensors of model.safetensors.index.json is missing"
    assert zone.lacking == [("m", lacks)]
    missing.write_bytes(content)
    zone.watcher.touch("m")
    await zone.watcher.poll()
    clock.now += QUIET_S
    await zone.watcher.poll()
    assert zone.reported == [drop]


async def test_drop_that_changes_after_its_report_is_reported_again(
    zone: Zone, clock: ManualClock
) -> None:
    drop = llama_folder(zone.folder / "m")
    await zone.watcher.poll()
    clock.now += QUIET_S
    await zone.watcher.poll()
    (drop / "README.md").write_text("new")
    zone.watcher.touch("m")
    await zone.watcher.poll()
    clock.now += QUIET_S
    await zone.watcher.poll()
    assert zone.reported == [drop, drop]


async def test_same_name_is_reported_again_after_it_was_taken_away(
    zone: Zone, clock: ManualClock, tmp_path_factory: pytest.TempPathFactory
) -> None:
    drop = llama_folder(zone.folder / "m")
    away = tmp_path_factory.mktemp("staging") / "m"
    await zone.watcher.poll()
    clock.now += QUIET_S
    await zone.watcher.poll()
    os.rename(drop, away)
    zone.watcher.touch("m")
    await zone.watcher.poll()
    os.rename(away, drop)
    zone.watcher.touch("m")
    await zone.watcher.poll()
    clock.now += QUIET_S
    await zone.watcher.poll()
    assert zone.reported == [drop, drop]


async def test_rescan_finds_what_no_event_announced(zone: Zone, clock: ManualClock) -> None:
    await zone.watcher.poll()
    drop = llama_folder(zone.folder / "m")
    clock.now += RESCAN_S - 0.1
    await zone.watcher.poll()
    clock.now += 0.1
    await zone.watcher.poll()
    assert zone.reported == []
    clock.now += QUIET_S
    await zone.watcher.poll()
    assert zone.reported == [drop]


async def test_hidden_entries_are_ignored(zone: Zone, clock: ManualClock) -> None:
    llama_folder(zone.folder / ".m")
    await zone.watcher.poll()
    clock.now += QUIET_S
    await zone.watcher.poll()
    assert zone.reported == []


async def test_file_event_announces_a_drop(tmp_path: Path) -> None:
    """With watchdog: the rescan is a day away, so an event must be what announces the drop."""
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    drops: asyncio.Queue[tuple[Path, str | None]] = asyncio.Queue()
    listening = asyncio.Event()

    class Clock(SystemClock):
        async def sleep(self, seconds: float) -> None:
            listening.set()
            await super().sleep(seconds)

    watcher = Watcher(
        folder=incoming,
        config=Ingest(quiet_period_seconds=0.0, rescan_interval_seconds=86_400.0),
        clock=Clock(),
        pending=PendingDrops(),
        on_drop=lambda path, missing: drops.put_nowait((path, missing)),
    )
    running = asyncio.create_task(watcher.run())
    try:
        await listening.wait()  # the rescan of the empty folder is over
        drop = llama_folder(tmp_path / "m").rename(incoming / "m")
        assert await asyncio.wait_for(drops.get(), 60.0) == (drop, None)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


def test_fingerprint_changes_with_content_and_is_none_for_what_is_gone(tmp_path: Path) -> None:
    drop = llama_folder(tmp_path / "m")
    first = fingerprint(drop)
    assert first == fingerprint(drop)
    os.utime(drop / "config.json", ns=(1, first[2] + 1 if first else 0))
    assert fingerprint(drop) != first
    assert fingerprint(tmp_path / "gone") is None


async def test_a_drop_is_pending_from_its_first_file_until_it_is_gone(
    zone: Zone, clock: ManualClock
) -> None:
    drop = zone.folder / "tiny.gguf"
    drop.touch()
    await zone.watcher.poll()
    (pending,) = zone.pending.all()
    assert (pending.name, pending.model, pending.state) == ("tiny.gguf", "tiny", "arriving")
    assert pending.since == pytest.approx(drop.stat().st_ctime)
    drop.unlink()
    zone.watcher.touch("tiny.gguf")
    await zone.watcher.poll()
    assert zone.pending.all() == []


@pytest.mark.parametrize("name", ["m.gguf.part", "m.safetensors.crdownload", "m.zip.aria2"])
async def test_a_download_in_progress_is_reported_as_such(
    zone: Zone, clock: ManualClock, name: str
) -> None:
    (zone.folder / name).write_bytes(b"GGUF")
    await zone.watcher.poll()
    clock.now += QUIET_S
    await zone.watcher.poll()
    assert zone.lacking == [(name, f"{name} is a partial download")]


async def test_a_changed_drop_is_pending_again_as_arriving(zone: Zone, clock: ManualClock) -> None:
    drop = zone.folder / "m"
    drop.mkdir()
    await zone.watcher.poll()
    clock.now += QUIET_S
    await zone.watcher.poll()
    assert zone.lacking == [("m", "the folder is empty")]
    (pending,) = zone.pending.all()
    zone.pending.note(pending.model_copy(update={"state": DropState.INCOMPLETE}))
    (drop / "notes.txt").touch()
    zone.watcher.touch("m")
    await zone.watcher.poll()
    assert [pending.state for pending in zone.pending.all()] == ["arriving"]


async def test_what_an_ingest_notes_of_a_drop_that_is_gone_by_then_is_withdrawn(
    zone: Zone, clock: ManualClock, tmp_path_factory: pytest.TempPathFactory
) -> None:
    await zone.watcher.poll()
    elsewhere = arriving(tmp_path_factory.mktemp("repository") / "m", since=1.0)
    zone.pending.note(elsewhere)
    zone.pending.note(arriving(zone.folder / "m", since=1.0))
    clock.now += RESCAN_S
    await zone.watcher.poll()
    assert zone.pending.all() == [elsewhere]


async def test_an_incomplete_drop_is_reported_once_more_when_its_time_is_over(
    zone: Zone, clock: ManualClock
) -> None:
    (zone.folder / "m").mkdir()
    await zone.watcher.poll()
    clock.now += GIVE_UP_S - RESCAN_S
    for _ in range(5):
        await zone.watcher.poll()
        clock.now += RESCAN_S
    assert zone.lacking == 2 * [("m", "the folder is empty")]


def test_a_fingerprint_notices_what_a_copy_cannot_set(tmp_path: Path) -> None:
    """A copy may keep its original's modification time; permissions change only this one."""
    drop = llama_folder(tmp_path / "m")
    os.utime(drop / "config.json", (1, 1))
    newest = max(path.stat().st_ctime_ns for path in (drop, *drop.iterdir()))
    found = fingerprint(drop)
    assert found is not None and found.changed_ns == newest


async def test_a_drop_zone_that_is_away_for_a_while_is_watched_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "incoming"
    folder.mkdir()
    clock = ManualClock()
    zone = Zone(folder, clock=clock)

    async def sleep(seconds: float) -> None:
        clock.now += 10.0
        await asyncio.sleep(0)

    clock.sleep = sleep  # type: ignore[method-assign]
    watching = asyncio.create_task(zone.watcher.run())
    try:
        folder.rmdir()
        while "looked at" not in caplog.text:
            assert not watching.done(), watching.exception()
            await asyncio.sleep(0)
        llama_folder(folder / "m")
        while not zone.reported:
            assert not watching.done(), watching.exception()
            await asyncio.sleep(0)
        assert caplog.text.count("looked at") == 1, "once, and not at each look"
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError, OSError):
            await watching


async def test_without_file_events_rescans_find_drops(
    zone: Zone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_args: object, **_given: object) -> None:
        raise OSError(28, "inotify watch limit reached")

    monkeypatch.setattr("modelium.intake.file_events.Observer.schedule", refused)
    llama_folder(zone.folder / "m")
    watching = asyncio.create_task(zone.watcher.run())
    try:
        while not zone.reported:
            assert not watching.done(), watching.exception()
            await asyncio.sleep(0)
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError, OSError):
            await watching


async def test_a_drop_that_could_not_be_taken_is_reported_again_later(
    zone: Zone, clock: ManualClock
) -> None:
    drop = llama_folder(zone.folder / "m")
    await zone.watcher.poll()
    await clock.sleep(QUIET_S)
    await zone.watcher.poll()
    zone.watcher.again("m")
    await clock.sleep(QUIET_S)
    await zone.watcher.poll()
    assert zone.reported == [drop]
    await clock.sleep(RESCAN_S)
    await zone.watcher.poll()
    assert zone.reported == [drop, drop]
    zone.watcher.again("gone")


async def test_a_drop_that_returns_to_the_drop_zone_is_not_taken_at_once(
    zone: Zone, clock: ManualClock
) -> None:
    zone.watcher.again("m")
    drop = llama_folder(zone.folder / "m")
    await zone.watcher.poll()
    await clock.sleep(QUIET_S)
    await zone.watcher.poll()
    assert zone.reported == []
    await clock.sleep(RESCAN_S)
    await zone.watcher.poll()
    assert zone.reported == [drop]


async def test_one_entry_that_cannot_be_looked_at_costs_no_other(
    zone: Zone, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = is_complete

    def broken(path: Path) -> str | None:
        if path.name == "bad":
            raise RecursionError("deeper than the stack")
        return real(path)

    monkeypatch.setattr("modelium.analysis.is_complete", broken)
    for name in ("bad", "good"):
        llama_folder(zone.folder / name)
    await zone.watcher.poll()
    clock.now += QUIET_S
    await zone.watcher.poll()
    assert zone.reported == [zone.folder / "good"]
    monkeypatch.undo()
    clock.now += RESCAN_S
    await zone.watcher.poll()
    assert zone.reported == [zone.folder / "good", zone.folder / "bad"]


async def test_what_an_incomplete_drop_lacked_is_noticed_before_the_rescan(
    zone: Zone, clock: ManualClock
) -> None:
    drop = llama_folder(zone.folder / "m", shards=2)
    missing = drop / "model-00002-of-00002.safetensors"
    content = missing.read_bytes()
    missing.unlink()
    await zone.watcher.poll()
    clock.now += QUIET_S
    await zone.watcher.poll()
    assert len(zone.lacking) == 1
    missing.write_bytes(content)  # no event: it lies inside of the drop
    for _ in range(3):
        clock.now += QUIET_S
        await zone.watcher.poll()
    assert zone.reported == [drop]


async def test_file_events_return_with_the_drop_zone(tmp_path: Path) -> None:
    """The rescan is a day away, so an event must be what announces the second drop."""
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    drops: asyncio.Queue[tuple[Path, str | None]] = asyncio.Queue()
    slept = asyncio.Event()

    class Clock(SystemClock):
        async def sleep(self, seconds: float) -> None:
            slept.set()
            await super().sleep(0.01)

    async def looks(count: int) -> None:
        for _ in range(count):
            slept.clear()
            await slept.wait()

    watcher = Watcher(
        folder=incoming,
        config=Ingest(quiet_period_seconds=0.0, rescan_interval_seconds=86_400.0),
        clock=Clock(),
        pending=PendingDrops(),
        on_drop=lambda path, missing: drops.put_nowait((path, missing)),
    )
    running = asyncio.create_task(watcher.run())
    try:
        await looks(2)
        incoming.rmdir()
        await looks(2)
        incoming.mkdir()
        await looks(2)
        drop = llama_folder(tmp_path / "m").rename(incoming / "m")
        assert await asyncio.wait_for(drops.get(), 60.0) == (drop, None)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
