from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtimes.process import engine_log as log_module
from runtimes.process.engine_log import EngineLog


def sizes_in(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir()}


async def test_a_large_log_is_rotated_under_the_engine_that_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "MAX_BYTES", 1000)
    log = EngineLog(path=tmp_path / "m.log")
    writer = log.open()
    for round_ in range(6):
        os.write(writer, b"x" * 1200 + b"\n")
        await log.rotate()
        os.write(writer, f"round {round_}\n".encode())
        assert log.new_lines()[-1] == f"round {round_}"
    os.close(writer)
    sizes = sizes_in(tmp_path)
    assert sizes["m.log"] < 100
    assert sorted(sizes) == ["m.log", "m.log.1", "m.log.2", "m.log.3"]


def test_a_new_start_begins_a_new_log_and_keeps_the_old_one(tmp_path: Path) -> None:
    log = EngineLog(path=tmp_path / "m.log")
    for word in (b"first\n", b"second\n"):
        writer = log.open()
        os.write(writer, word)
        os.close(writer)
    assert log.new_lines() == ["second"]
    assert (tmp_path / "m.log.1").read_text() == "first\n"


async def test_a_flood_keeps_its_end_alone_and_the_lines_before_the_cut_are_still_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "MAX_BYTES", 4000)
    log = EngineLog(path=tmp_path / "m.log")
    writer = log.open()
    os.write(writer, (b"y" * 99 + b"\n") * 500 + b"RuntimeError: the cause\n")
    await log.rotate()
    os.write(writer, b"the end\n")
    os.close(writer)
    assert sum(sizes_in(tmp_path).values()) <= 4000 + 100
    assert log.tail(2) == ["RuntimeError: the cause", "the end"]


def test_a_burst_is_read_from_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "NEW_BYTES", 100)
    log = EngineLog(path=tmp_path / "m.log")
    writer = log.open()
    os.write(writer, (b"y" * 99 + b"\n") * 50 + b"loading weights\n")
    assert len(log.new_lines()) <= 2
    os.write(writer, b"done\n")
    assert log.new_lines() == ["done"]
    os.close(writer)
