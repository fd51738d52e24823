"""Folders are walked without recursion, without links, and with a bound."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelium.analysis.readers import tree as module
from modelium.analysis.readers.tree import is_folder, walk


def walked(root: Path) -> list[str]:
    return [os.path.relpath(entry.path, root) for entry in walk(root)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x").touch()
    (tmp_path / "y").touch()
    (tmp_path / "link").symlink_to("a")
    return tmp_path


def test_all_is_found_folders_before_what_is_in_them(root: Path) -> None:
    found = walked(root)
    assert sorted(found) == ["a", "a/b", "a/b/c", "a/b/x", "link", "y"]
    assert found.index("a") < found.index("a/b") < found.index("a/b/c")
    assert [entry.name for entry in walk(root) if is_folder(entry)] == ["a", "b", "c"]


def test_what_cannot_be_listed_is_left_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert walked(root / "y") == walked(root / "gone") == []
    scandir = os.scandir

    def guarded(path: str) -> object:
        if path.endswith("a/b"):
            raise PermissionError(13, "no")
        return scandir(path)

    (root / "z" / "x").mkdir(parents=True)
    monkeypatch.setattr(os, "scandir", guarded)
    assert sorted(walked(root)) == ["a", "a/b", "link", "y", "z", "z/x"]


@pytest.mark.parametrize(
    ("levels", "deepest"), [(1, ["a", "link", "y"]), (2, ["a/b"]), (3, ["a/b/c", "a/b/x"])]
)
def test_folders_are_entered_to_a_depth(
    root: Path, monkeypatch: pytest.MonkeyPatch, levels: int, deepest: list[str]
) -> None:
    monkeypatch.setattr(module, "MAX_LEVELS", levels)
    found = sorted(walked(root), key=lambda path: (path.count("/"), path))
    assert found[-len(deepest) :] == deepest


@pytest.mark.parametrize("listed", [1, 3, 5, 6, 7])
def test_entries_are_counted(root: Path, monkeypatch: pytest.MonkeyPatch, listed: int) -> None:
    monkeypatch.setattr(module, "MAX_LISTED", listed)
    assert len(walked(root)) == min(listed, 6)


def test_an_entry_that_cannot_be_looked_at_is_no_folder() -> None:
    class Entry:
        def is_dir(self, *, follow_symlinks: bool) -> bool:
            raise OSError(5, "broken")

    assert is_folder(Entry()) is False  # type: ignore[arg-type]
