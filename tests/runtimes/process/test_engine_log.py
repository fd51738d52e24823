from __future__ import annotations

import asyncio
import os
import resource
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtimes.process import engine_log as log_module
from runtimes.process.engine_log import EngineLog


@pytest.fixture
def log(tmp_path: Path) -> EngineLog:
    return EngineLog(path=tmp_path / "logs" / "m.log")


@pytest.fixture
def writer(log: EngineLog) -> Iterator[int]:
    """The descriptor that the engine has."""
    descriptor = log.open()
    yield descriptor
    os.close(descriptor)


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


def test_the_log_of_a_start_is_the_groups_to_read_and_others_have_nothing(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        os.close(EngineLog(path=tmp_path / "m.log").open())
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "m.log").stat().st_mode) == 0o640


def test_three_older_logs_are_kept_and_a_start_that_said_nothing_takes_no_place(
    log: EngineLog,
) -> None:
    for start in range(6):
        writer = log.open()
        os.write(writer, f"start {start}\n".encode() if start != 4 else b"")
        os.close(writer)
    assert {path.name: path.read_text() for path in log.path.parent.iterdir()} == {
        "m.log": "start 5\n",
        "m.log.1": "start 3\n",
        "m.log.2": "start 2\n",
        "m.log.3": "start 1\n",
    }


def test_lines_are_told_once_each_when_they_are_complete(log: EngineLog, writer: int) -> None:
    assert log.new_lines() == []
    os.write(writer, b"one\ntwo\r 10%\r 20%\r\n\n  \nthr")
    assert log.new_lines() == ["one", "two", " 10%", " 20%"]
    assert log.new_lines() == []
    os.write(writer, b"ee\nf\xffur\n")
    assert log.new_lines() == ["three", "f\ufffdur"]


def test_what_an_adopted_engine_said_before_is_not_told_again(log: EngineLog, writer: int) -> None:
    os.write(writer, b"before\n")
    later = EngineLog(path=log.path)
    assert later.new_lines() == []
    os.write(writer, b"after\n")
    assert later.new_lines() == ["after"]


def test_half_a_line_of_an_earlier_start_does_not_begin_the_next_one(log: EngineLog) -> None:
    first = log.open()
    os.write(first, b"whole\nhalf")
    assert log.new_lines() == ["whole"]
    os.close(first)
    second = log.open()
    os.write(second, b"new\n")
    assert log.new_lines() == ["new"]
    os.close(second)


def test_a_log_that_somebody_truncated_is_read_from_its_start(log: EngineLog, writer: int) -> None:
    os.write(writer, b"a long line\nhalf")
    assert log.new_lines() == ["a long line"]
    os.truncate(log.path, 0)
    os.write(writer, b"new\n")
    assert log.new_lines() == ["new"]


async def test_half_a_line_before_a_rotation_does_not_begin_the_next_one(
    log: EngineLog, writer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "MAX_BYTES", 10)
    os.write(writer, b"whole line\nhalf")
    assert log.new_lines() == ["whole line"]
    await log.rotate()
    os.write(writer, b"a line that is longer than all of the log before\n")
    assert log.new_lines() == ["a line that is longer than all of the log before"]


@pytest.mark.parametrize(("bytes_", "told"), [(30, ["a" * 9, "b" * 9, "c" * 9]), (29, None)])
def test_up_to_the_limit_all_new_lines_are_told(
    log: EngineLog,
    writer: int,
    monkeypatch: pytest.MonkeyPatch,
    bytes_: int,
    told: list[str] | None,
) -> None:
    monkeypatch.setattr(log_module, "NEW_BYTES", bytes_)
    os.write(writer, b"a" * 9 + b"\n" + b"b" * 9 + b"\n" + b"c" * 9 + b"\n")
    assert log.new_lines() == (told or ["a" * 8, "b" * 9, "c" * 9])


def test_a_line_is_whole_that_ends_with_as_much_as_is_read_at_once(
    log: EngineLog, writer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "NEW_BYTES", 10)
    os.write(writer, b"half ")
    assert log.new_lines() == []
    os.write(writer, b"x" * 9 + b"\n")
    assert log.new_lines() == ["half xxxxxxxxx"]


def test_a_log_that_is_not_there_has_no_lines(tmp_path: Path) -> None:
    assert EngineLog(path=tmp_path / "none.log").new_lines() == []


def test_a_burst_does_not_continue_the_line_before_it(
    log: EngineLog, writer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "NEW_BYTES", 10)
    os.write(writer, b"half")
    assert log.new_lines() == []
    os.write(writer, b"x" * 20 + b"\n" + b"y" * 9 + b"\n")
    assert log.new_lines() == ["y" * 9]


def test_the_tail_is_the_last_lines_that_say_something(log: EngineLog, writer: int) -> None:
    assert EngineLog(path=log.path.with_name("none.log")).tail(5) == []
    os.write(writer, b"one\n\ntwo\n   \nthr\xffee\nfour")
    assert log.tail(2) == ["thr\ufffdee", "four"]
    assert log.tail(9) == ["one", "two", "thr\ufffdee", "four"]


def test_the_tail_is_of_the_end_of_a_large_log(
    log: EngineLog, writer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "TAIL_BYTES", 10)
    os.write(writer, b"first\nsecond\nok\n")
    assert log.tail(9) == ["second", "ok"]


@pytest.mark.parametrize(
    ("line", "masked"),
    [
        ("api_key=hunter2 next", "api_key=*** next"),
        ("API-KEY: hunter2", "API-KEY: ***"),
        ("'password': 'hunter2',", "'password': ***"),
        ("token = hunter2", "token = ***"),
        ("tokens: 12", "tokens: 12"),
        ("secret santa", "secret santa"),
    ],
)
def test_secrets_in_the_tail_are_masked(
    log: EngineLog, writer: int, line: str, masked: str
) -> None:
    os.write(writer, line.encode())
    assert log.tail(1) == [masked]


async def test_a_log_is_rotated_above_its_limit_alone_and_keeps_that_much(
    log: EngineLog, writer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "MAX_BYTES", 10)
    os.write(writer, b"0123456789")
    await log.rotate()
    assert sizes_in(log.path.parent) == {"m.log": 10}
    os.write(writer, b"ab")
    await log.rotate()
    assert sizes_in(log.path.parent) == {"m.log": 0, "m.log.1": 10}
    assert (log.path.parent / "m.log.1").read_bytes() == b"23456789ab"
    os.write(writer, b"x" * 11)
    await log.rotate()
    assert sizes_in(log.path.parent) == {"m.log": 0, "m.log.1": 10, "m.log.2": 10}


def test_where_no_copy_fits_the_log_is_cut_all_the_same(
    log: EngineLog, writer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk stays full otherwise: the log itself may be what fills it."""
    monkeypatch.setattr(log_module, "MAX_BYTES", 4000)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    os.write(writer, b"x" * 5000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        asyncio.run(log.rotate())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert sizes_in(log.path.parent) == {"m.log": 0}


def test_a_start_after_a_flood_keeps_its_end_alone(
    log: EngineLog, writer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "MAX_BYTES", 4000)
    os.write(writer, b"x" * 5000 + b"y" * 4000)
    os.close(log.open())
    assert sizes_in(log.path.parent) == {"m.log": 0, "m.log.1": 4000}
    assert log.path.with_name("m.log.1").read_bytes() == b"y" * 4000


async def test_two_looks_at_once_rotate_once(
    log: EngineLog, writer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "MAX_BYTES", 10)
    os.write(writer, b"x" * 20)
    await asyncio.gather(log.rotate(), log.rotate())
    assert sizes_in(log.path.parent) == {"m.log": 0, "m.log.1": 10}


async def test_the_tail_goes_back_over_a_rotation_of_this_start_alone(
    log: EngineLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "MAX_BYTES", 20)
    monkeypatch.setattr(log_module, "TAIL_BYTES", 20)
    first = log.open()
    os.write(first, b"x" * 9 + b"\nthe first start\n")
    await log.rotate()
    os.write(first, b"ended 78901234567\n")
    assert log.tail(9) == ["xxx", "the first start", "ended 78901234567"]
    os.write(first, b"x\n")
    assert log.tail(9) == ["ended 78901234567", "x"], "these are as many bytes as are read"
    os.close(first)
    second = log.open()
    os.write(second, b"second\n")
    assert log.tail(9) == ["second"]
    os.close(second)
