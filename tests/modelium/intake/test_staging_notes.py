"""The note beside a staged drop, and what lies beside it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from modelium.intake.contents import ORIGINAL, only_in, original_in, parts_in
from modelium.intake.moving import COPYING, TAKEN
from modelium.intake.origin import ORIGIN, Origin

FULL = Origin(
    path="/in/m", name="m", moved=False, archive=True, identity="1:2:3", rejected="/rejected/m"
)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "own").mkdir()
    return tmp_path / "own"


def put(own: Path, *names: str) -> None:
    for name in names:
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).touch()


# --- origin ---------------------------------------------------------------------------------------


def test_what_is_noted_is_read(own: Path) -> None:
    FULL.write(own)
    assert Origin.read(own) == FULL
    assert [p.name for p in own.iterdir()] == [ORIGIN]


def test_a_note_replaces_another_in_one_step(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Origin(name="old").write(own)
    seen: list[tuple[Origin, int]] = []
    monkeypatch.setattr(
        os, "fsync", lambda file: seen.append((Origin.read(own), os.fstat(file).st_size))
    )
    FULL.write(own)
    assert seen == [(Origin(name="old"), (own / ORIGIN).stat().st_size)]
    assert Origin.read(own) == FULL


@pytest.mark.parametrize("text", [None, "", "{", "[]", "7"])
def test_without_a_readable_note_nothing_is_known(own: Path, text: str | None) -> None:
    if text is not None:
        (own / ORIGIN).write_text(text)
    assert Origin.read(own) == Origin()
    assert Origin() == Origin(path="", name="", moved=True, archive=False, identity="", rejected="")


def test_a_note_of_another_version_is_read_as_far_as_it_is_known(own: Path) -> None:
    (own / ORIGIN).write_text(json.dumps({"name": "m", "moved": False, "new": 1}))
    assert Origin.read(own) == Origin(name="m", moved=False)


def test_a_copy_is_known_by_what_was_copied(own: Path, tmp_path: Path) -> None:
    drop = tmp_path / "m"
    drop.touch()
    origin = Origin(path=str(drop), name="m")
    origin.noting(own)(False)
    noted = Origin.read(own)
    info = drop.stat()
    assert noted == Origin(
        path=str(drop),
        name="m",
        moved=False,
        identity=f"{info.st_dev}:{info.st_ino}:{info.st_ctime_ns}",
    )
    assert noted.is_copy_of(drop)
    assert not origin.is_copy_of(drop)
    drop.rename(tmp_path / "other")
    assert not noted.is_copy_of(drop)
    drop.touch()
    assert not noted.is_copy_of(drop)
    drop.unlink()
    origin.noting(own)(True)
    assert Origin.read(own) == origin
    assert not origin.is_copy_of(drop), "nothing is a copy of nothing"


# --- contents -------------------------------------------------------------------------------------


def test_a_drop_as_it_came_is_there_when_it_is_whole(own: Path) -> None:
    assert original_in(own) is None
    (own / ORIGINAL).mkdir()
    assert original_in(own) is None
    put(own, f"{ORIGINAL}/{COPYING}1", f"{ORIGINAL}/{TAKEN}2")
    assert original_in(own) is None
    put(own, f"{ORIGINAL}/m.zip")
    assert original_in(own) == own / ORIGINAL / "m.zip"


def test_what_is_staged_is_neither_hidden_nor_the_note(own: Path) -> None:
    put(own, ORIGIN, f"{COPYING}1", ".hidden")
    assert only_in(own) == own / ORIGINAL / "nothing"
    put(own, "m")
    assert only_in(own) == own / "m"


def test_parts_are_what_is_being_copied_and_not_empty(own: Path) -> None:
    (own / f"{COPYING}1").mkdir()
    put(own, "m", f"{TAKEN}1", f"{COPYING}2", f"{COPYING}3/x", f"sub/{COPYING}4")
    assert sorted(parts_in(own)) == [own / f"{COPYING}2", own / f"{COPYING}3"]
    put(own, f"{ORIGINAL}/m", f"{ORIGINAL}/{COPYING}5")
    assert sorted(parts_in(own)) == [
        own / f"{COPYING}2",
        own / f"{COPYING}3",
        own / ORIGINAL / f"{COPYING}5",
    ]
