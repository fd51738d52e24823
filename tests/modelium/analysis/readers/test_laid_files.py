"""Which files a marker makes Modelium's, and which of them are removed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from modelium.analysis.readers.laid import (
    CONFIG,
    MARKER,
    MAX_MARKER_BYTES,
    Laid,
    laid_files,
    read_marker,
    unlay,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "m").mkdir()
    return tmp_path / "m"


def write(root: Path, *names: str, data: bytes = b"weights") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def files(root: Path) -> list[str]:
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if not p.is_dir())


FULL = {"version": 3, "config": True, "folder": "12", "source": "a/b", "caches": True}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, Laid(**FULL)),
        ({"version": "7"}, Laid(**{**FULL, "version": 7})),
        ({"config": 1}, Laid(**{**FULL, "config": False})),
        ({"caches": "true"}, Laid(**{**FULL, "caches": False})),
        ({"folder": "", "source": ""}, Laid(version=3, config=True, caches=True)),
        ({"source": ""}, Laid(**{**FULL, "source": ""})),
        ({"folder": ""}, Laid(**{**FULL, "folder": ""})),
        ({"source": "12x/12"}, Laid(**{**FULL, "source": "12x/12"})),
        ({"folder": "9" * 18}, Laid(**{**FULL, "folder": "9" * 18})),
        ({"folder": "9" * 19}, None),
        ({"folder": "0"}, None),
        ({"folder": "1/2"}, None),
        ({"source": "12/a"}, None),
        ({"source": "a/../b"}, None),
        ({"source": "a//b"}, None),
        ({"source": "/a"}, None),
        ({"source": ".."}, None),
        ({"version": "x"}, None),
        ({"version": None}, None),
    ],
)
def test_what_a_marker_says(root: Path, changes: dict[str, Any], found: Laid | None) -> None:
    (root / MARKER).write_text(json.dumps(FULL | changes))
    assert read_marker(root) == found


def test_a_marker_of_before_there_were_caches(root: Path) -> None:
    old = {key: value for key, value in FULL.items() if key != "caches"}
    (root / MARKER).write_text(json.dumps(old))
    assert read_marker(root) == Laid(**{**FULL, "caches": False})
    (root / MARKER).write_text(json.dumps({"config": True, "folder": "", "source": ""}))
    assert read_marker(root) is None


def test_a_marker_is_read_to_a_limit(root: Path) -> None:
    text = json.dumps(FULL)
    (root / MARKER).write_text(text.ljust(MAX_MARKER_BYTES) + "x")
    assert read_marker(root) == Laid(**FULL)
    (root / MARKER).write_text(text.ljust(MAX_MARKER_BYTES - 1) + "x")
    assert read_marker(root) is None


def test_what_is_written_is_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_size))
    laid = Laid(version=2, config=True, folder="4", source="x", caches=True)
    laid.write(root)
    assert read_marker(root) == laid
    assert synced == [(root / MARKER).stat().st_size], "whole on the disk"


def test_files_that_repeat_others_are_laid(root: Path) -> None:
    write(root, "model.onnx", "sub/x", "2/model.onnx", "2/sub/x", "12/model.onnx")
    write(root, "2/other", "2/sub/y", data=b"mine")
    write(root, "sub/y", data=b"MINE")
    (root / "d").mkdir()
    os.mkfifo(root / "pipe")
    os.link(root / "pipe", root / "2" / "pipe")
    names = [name for name in files(root)] + ["2/gone", "2/d"]
    assert laid_files(root, names) == {MARKER}
    Laid(version=1, folder="2").write(root)
    assert laid_files(root, names) == {MARKER, "2/model.onnx", "2/sub/x"}


@pytest.mark.parametrize("config", [False, True])
def test_without_a_folder_at_most_the_configuration_is_laid(root: Path, config: bool) -> None:
    write(root, "model.onnx", "1/model.onnx", CONFIG)
    (root / "empty").mkdir()
    Laid(version=1, config=config).write(root)
    assert laid_files(root, files(root)) == ({MARKER, CONFIG} if config else {MARKER})
    unlay(root)
    assert files(root) == ["1/model.onnx", *([] if config else [CONFIG]), "model.onnx"]
    assert (root / "empty").is_dir()


def test_a_folder_may_repeat_another_one(root: Path) -> None:
    write(root, "a/model.onnx", "1/model.onnx", "model.onnx", "x")
    write(root, "1/x")
    Laid(version=1, folder="1", source="a").write(root)
    assert laid_files(root, files(root)) == {MARKER, "1/model.onnx"}


def test_laid_files_are_removed_with_the_folders_that_they_leave_empty(root: Path) -> None:
    write(root, "a/b/c/x", "a/y", "1/a/b/c/x", "1/a/y", "1/z")
    (root / "1" / "e" / "f").mkdir(parents=True)
    (root / "1" / "l").symlink_to(root / "a" / "y")
    write(root, "l")
    Laid(version=1, folder="1").write(root)
    unlay(root)
    assert files(root) == ["1/z", "a/b/c/x", "a/y", "l"]
    assert [p.name for p in (root / "1").iterdir()] == ["z"]


def test_a_folder_that_is_all_laid_is_removed(root: Path) -> None:
    write(root, "a/x", "1/a/x")
    Laid(version=1, folder="1").write(root)
    unlay(root)
    assert sorted(p.name for p in root.iterdir()) == ["a"]
    Laid(version=1, folder="1").write(root)
    unlay(root)
    assert sorted(p.name for p in root.iterdir()) == ["a"], "nor is it an error that it is gone"


@pytest.mark.parametrize("caches", [False, True])
def test_caches_are_removed_below_the_folders_of_the_model(root: Path, caches: bool) -> None:
    write(root, "__pycache__/a.pyc", "1/__pycache__/b.pyc", "1/p/q/__pycache__/d/c.pyc")
    write(root, "1/p/r/__pycache__", "1/pycache/x")
    Laid(version=1, caches=caches).write(root)
    before = [name for name in files(root) if name != MARKER]
    unlay(root)
    kept = ["1/p/r/__pycache__", "1/pycache/x", "__pycache__/a.pyc"]
    assert files(root) == (kept if caches else before)
