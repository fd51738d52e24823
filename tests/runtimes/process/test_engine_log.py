from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtimes.process import engine_log as log_module
from runtimes.process.engine_log import EngineLog


def test_a_large_log_is_rotated_under_the_engine_that_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "MAX_BYTES", 1000)
    log = EngineLog(path=tmp_path / "m.log")
    writer = log.open()
    for round_ in range(6):
        os.write(writer, b"x" * 1200 + b"\n")
        log.rotate()
        os.write(writer, f"round {round_}\n".encode())
        assert log.new_lines()[-1] == f"round {round_}"
    os.close(writer)
    assert log.path.stat().st_size < 100
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["m.log", "m.log.1", "m.log.2", "m.log.3"]


def test_a_new_start_begins_a_new_log_and_keeps_the_old_one(tmp_path: Path) -> None:
    log = EngineLog(path=tmp_path / "m.log")
    for word in (b"first\n", b"second\n"):
        writer = log.open()
        os.write(writer, word)
        os.close(writer)
    assert log.new_lines() == ["second"]
    assert (tmp_path / "m.log.1").read_text() == "first\n"
