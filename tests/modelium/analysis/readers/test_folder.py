"""A dropped folder: what is cached of its parsed files."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelium.analysis.readers import folder as module
from modelium.analysis.readers.folder import Folder


class Reader:
    """Parses a file into ``items`` entries, and counts how often."""

    def __init__(self, items: int) -> None:
        self.items = items
        self.reads = 0

    def __call__(self, path: Path, what: str) -> list[int]:
        self.reads += 1
        return [0] * self.items


def test_a_file_is_parsed_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    folder, reader = Folder(tmp_path), Reader(10)
    assert folder.parse("a", reader) is folder.parse("a", reader)
    assert reader.reads == 1


def test_many_large_headers_are_not_all_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drop of small files, each with a header of the largest size, must not fill the memory."""
    monkeypatch.setattr(module, "CACHED_ITEMS", 25)
    for name in "abcd":
        (tmp_path / name).write_bytes(b"")
    folder, reader = Folder(tmp_path), Reader(10)
    for _ in range(2):
        for name in "abcd":
            assert folder.parse(name, reader) == [0] * 10
    assert reader.reads == 4 + 2, "two of four are cached"
