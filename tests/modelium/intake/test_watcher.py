from __future__ import annotations

import asyncio
import logging
import os
from contextlib import suppress
from pathlib import Path

import pytest

from modelium.clock import SystemClock
from modelium.config import Ingest
from modelium.intake.watcher import Watcher, fingerprint
from modelium.ports import Clock
from tests.modelium.analysis.files import llama_folder

QUIET_S = 5.0
RESCAN_S = 30.0


class ManualClock:
    """Advances only when a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


class Zone:
    """A drop zone with its watcher, and what the watcher reported."""

    def __init__(self, folder: Path, *, clock: Clock) -> None:
        self.folder = folder
        self.reported: list[Path] = []
        self.watcher = Watcher(
            folder=folder,
            config=Ingest(quiet_period_seconds=QUIET_S, rescan_interval_seconds=RESCAN_S),
            clock=clock,
            on_drop=self.reported.append,
        )


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


async def test_incomplete_drop_waits_for_its_missing_part(
    zone: Zone, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    drop = llama_folder(zone.folder / "m", shards=2)
    missing = drop / "model-00002-of-00002.safetensors"
    content = missing.read_bytes()
    missing.unlink()
    await zone.watcher.poll()
    for _ in range(3):
        clock.now += QUIET_S
        await zone.watcher.poll()
    assert zone.reported == []
    assert caplog.messages == [
        "m is not complete yet: "
        "model-00002-of-00002.safetensors of model.safetensors.index.json is missing"
    ]
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
    drops: asyncio.Queue[Path] = asyncio.Queue()
    listening = asyncio.Event()

    class Clock(SystemClock):
        async def sleep(self, seconds: float) -> None:
            listening.set()
            await super().sleep(seconds)

    watcher = Watcher(
        folder=incoming,
        config=Ingest(quiet_period_seconds=0.0, rescan_interval_seconds=86_400.0),
        clock=Clock(),
        on_drop=drops.put_nowait,
    )
    running = asyncio.create_task(watcher.run())
    try:
        await listening.wait()  # the rescan of the empty folder is over
        drop = llama_folder(tmp_path / "m").rename(incoming / "m")
        assert await asyncio.wait_for(drops.get(), 60.0) == drop
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
