"""A zip's table of contents is measured before it is loaded."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest

from modelium.analysis.readers.zip_directory import (
    MAX_DIRECTORY_BYTES,
    AbsurdDirectory,
    open_zip,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "m.zip"


def end(size: int, comment: bytes = b"") -> bytes:
    return struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, size, 0, len(comment)) + comment


def wide_end(size: int) -> bytes:
    return struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, size, 0)


ABSURD = [
    end(MAX_DIRECTORY_BYTES + 1),
    end(MAX_DIRECTORY_BYTES + 1, b"c" * 65_535),
    wide_end(MAX_DIRECTORY_BYTES + 1) + end(0xFFFFFFFF),
    wide_end(MAX_DIRECTORY_BYTES + 1) + end(7),
    wide_end(7) + end(MAX_DIRECTORY_BYTES + 1),
    wide_end(MAX_DIRECTORY_BYTES + 1) + b"locator" * 3 + end(0xFFFFFFFF, b"c" * 65_535)[:-1],
]


@pytest.mark.parametrize("tail", ABSURD)
def test_an_absurd_table_is_not_loaded(file: Path, tail: bytes) -> None:
    file.write_bytes(bytes(1000) + tail)
    why = f"the table of contents has {MAX_DIRECTORY_BYTES + 1} bytes; the limit is 16777216"
    with pytest.raises(AbsurdDirectory) as caught:
        open_zip(file)
    assert str(caught.value) == why
    with file.open("rb") as opened, pytest.raises(AbsurdDirectory):
        open_zip(opened)


def test_a_table_without_a_size_may_be_the_whole_file(file: Path) -> None:
    with file.open("wb") as out:
        out.truncate(MAX_DIRECTORY_BYTES)
        out.seek(0, 2)
        out.write(end(0xFFFFFFFF))
    with pytest.raises(AbsurdDirectory, match=f"has {MAX_DIRECTORY_BYTES + 22} bytes"):
        open_zip(file)


@pytest.mark.parametrize(
    "data",
    [b"", b"x" * 100, end(7)[:21], b"x" + end(7)[:-1], end(MAX_DIRECTORY_BYTES + 1)[:-1]],
)
def test_what_has_no_end_record_is_no_zip(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    with pytest.raises(zipfile.BadZipFile, match="no end-of-directory record"):
        open_zip(file)


@pytest.mark.parametrize(
    "tail",
    [
        end(MAX_DIRECTORY_BYTES),
        wide_end(MAX_DIRECTORY_BYTES) + end(0xFFFFFFFF),
        wide_end(MAX_DIRECTORY_BYTES + 1)[:55] + end(7),
        wide_end(7)[:4] + end(7),
    ],
)
def test_a_table_of_the_largest_size_is_left_to_the_library(file: Path, tail: bytes) -> None:
    """Which finds that it is none."""
    file.write_bytes(tail)
    with pytest.raises(zipfile.BadZipFile, match=r"Bad magic|[Cc]orrupt|locator|central"):
        open_zip(file)


def test_names_are_read_from_a_path_or_a_file(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a", b"x")
        archive.comment = b"c" * 65_535
    with open_zip(file) as found:
        assert found.namelist() == ["a"]
    with file.open("rb") as opened, open_zip(opened) as found:
        assert found.read("a") == b"x"
