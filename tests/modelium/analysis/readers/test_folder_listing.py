"""A dropped folder: what is listed of it and read, and what is refused with which words."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from modelium.analysis.readers import folder as module
from modelium.analysis.readers.folder import (
    MAX_DEPTH,
    FileEntry,
    Folder,
    inside,
    json_file,
    json_object,
    shown,
    unsafe_name,
)
from modelium.errors import DropRejected, is_passing


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "m").mkdir()
    return tmp_path / "m"


def refused(path: Path) -> tuple[str, str]:
    with pytest.raises(DropRejected) as caught:
        Folder(path)
    return str(caught.value), caught.value.reason


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ("a b ü", "a b ü"),
        ("a\nb\x1b\u202e\udcff", "a?b???"),
        ("x" * 120, "x" * 120),
        ("x" * 121, "x" * 120 + "…"),
    ],
)
def test_untrusted_text_is_shown_as_one_line(text: str, line: str) -> None:
    assert shown(text) == line


def test_untrusted_text_is_cut_where_it_is_asked() -> None:
    assert (shown("abc", limit=3), shown("abcd", limit=3)) == ("abc", "abc…")


@pytest.mark.parametrize(
    ("name", "unsafe"),
    [
        ("a", False),
        ("...", False),
        (".a", False),
        ("ü a", False),
        ("x" * 255, False),
        ("x" * 256, True),
        ("", True),
        (".", True),
        ("..", True),
        ("a\\b", True),
        ("a/b", True),
        *((f"a{c}b", True) for c in "\n\x7f\u200b\u202e\udcff\u2028\u2029"),
    ],
)
def test_names_that_mislead_are_unsafe(name: str, unsafe: bool) -> None:
    assert unsafe_name(name) is unsafe


@pytest.mark.parametrize(
    ("name", "stays"),
    [
        ("a/b", True),
        ("/".join("abcdefghijkl"), True),
        ("/".join("abcdefghijklm"), False),
        ("", False),
        ("/a", False),
        ("a/", False),
        ("a/../b", False),
        ("a//b", False),
    ],
)
def test_paths_that_stay_inside(name: str, stays: bool) -> None:
    assert inside(name) is stays


def test_only_errors_of_the_machine_pass() -> None:
    assert is_passing(OSError(errno.ENOSPC, "full"))
    assert is_passing(OSError(errno.EIO, "broken"))
    assert not is_passing(OSError(errno.EACCES, "no"))
    assert not is_passing(OSError())


# --- listing --------------------------------------------------------------------------------------


def test_files_are_listed_by_name_with_their_sizes(root: Path) -> None:
    (root / "b").mkdir()
    for name, size in (("z.TXT", 3), ("b/y.tar.GZ", 0), ("a", 7), ("b/x.txt", 1)):
        (root / name).write_bytes(bytes(size))
    folder = Folder(root)
    assert folder.root == root
    assert folder.files == (
        FileEntry("a", 7),
        FileEntry("b/x.txt", 1),
        FileEntry("b/y.tar.GZ", 0),
        FileEntry("z.TXT", 3),
    )
    assert [entry.suffix for entry in folder.files] == ["", ".txt", ".gz", ".txt"]
    assert folder.sizes == {"a": 7, "b/x.txt": 1, "b/y.tar.GZ": 0, "z.TXT": 3}
    assert [entry.name for entry in folder.having(".txt")] == ["b/x.txt", "z.TXT"]
    assert [entry.name for entry in folder.having(".gz", "")] == ["a", "b/y.tar.GZ"]
    assert "a" in folder
    assert "b" not in folder
    assert folder.path("b/x.txt") == root / "b" / "x.txt"


def test_a_file_is_a_folder_of_one(root: Path) -> None:
    for name in ("a", "b"):
        (root / name).write_bytes(b"12")
    folder = Folder(root / "a")
    assert (folder.root, folder.files) == (root, (FileEntry("a", 2),))


def test_a_link_inside_is_the_file_that_it_leads_to(root: Path) -> None:
    (root / "a").write_bytes(b"12345")
    (root / "b").symlink_to("a")
    assert Folder(root).files == (FileEntry("a", 5), FileEntry("b", 5))


def test_links_that_lead_elsewhere_are_refused(root: Path) -> None:
    (root.parent / "m2").write_bytes(b"x")
    (root / "d").mkdir()
    why = "does not link to a file inside the folder. Copy the files themselves (cp -L)."
    for target in ("../m2", "d", ".."):
        (root / "x\u00a0").symlink_to(target)
        assert refused(root) == (f"'x?' {why}", "link-outside")
        (root / "x\u00a0").unlink()
    (root / "gone").symlink_to("nowhere")
    assert refused(root) == ("'gone' is a broken link. Copy the file itself.", "broken-link")


def test_files_are_counted_with_their_folders(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FILES", 3)
    (root / "d").mkdir()
    for name in ("d/a", "b"):
        (root / name).touch()
    assert len(Folder(root).files) == 2
    (root / "c").touch()
    assert refused(root) == (
        "The folder has more than 3 files. Drop one model per folder.",
        "too-many-files",
    )


def test_folders_nest_as_deep_as_is_allowed(root: Path) -> None:
    deep = root.joinpath(*["d"] * (MAX_DEPTH - 1))
    deep.mkdir(parents=True)
    (deep / "a").touch()
    assert [entry.name for entry in Folder(root).files] == ["d/" * (MAX_DEPTH - 1) + "a"]
    (deep / "d").mkdir()
    assert refused(root) == (
        f"{'/'.join(['d'] * MAX_DEPTH)!r} is nested more than 12 folders deep. "
        "Drop the folder that contains the model's files.",
        "too-deep",
    )


@pytest.mark.parametrize("inside_of", ["", "d"])
def test_names_and_kinds_of_files_that_are_refused(root: Path, inside_of: str) -> None:
    place = root / inside_of
    place.mkdir(exist_ok=True)
    prefix = f"{inside_of}/" if inside_of else ""
    os.mkfifo(place / "pipe")
    assert refused(root) == (
        f"'{prefix}pipe' is a device, socket or pipe. Drop plain files only.",
        "special-file",
    )
    (place / "pipe").unlink()
    (place / "a\n").touch()
    why = "contains control characters or a backslash, or is not valid UTF-8. Rename the file."
    assert refused(root) == (f"The name '{prefix}a?' {why}", "unsafe-name")
    assert refused(place / "a\n") == (f"The name 'a?' {why}", "unsafe-name")


def test_what_is_no_folder_and_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert refused(tmp_path / "pipe") == (
        "'pipe' is neither a folder nor a regular file.",
        "special-file",
    )
    assert refused(tmp_path / "gone") == (f"{tmp_path}/gone does not exist.", "unreadable")
    (tmp_path / "loop").symlink_to("loop")
    why, reason = refused(tmp_path / "loop")
    assert why.endswith("Error. Check that it exists and is readable.")
    assert reason == "unreadable"


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_a_folder_that_cannot_be_listed(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def scandir(_path: object) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(os, "scandir", scandir)
    if number == errno.EIO:
        with pytest.raises(OSError, match="no"):
            Folder(root)
    else:
        why = f"{root} cannot be read: PermissionError. Check that it exists and is readable."
        assert refused(root) == (why, "unreadable")


# --- contents -------------------------------------------------------------------------------------


def test_of_a_file_as_much_is_read_as_is_asked(root: Path) -> None:
    (root / "a").write_bytes(b"12345")
    folder = Folder(root)
    assert (folder.read("a", limit=3), folder.read("a", limit=9)) == (b"123", b"12345")


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_a_file_that_cannot_be_read(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    (root / "a\u00a0").touch()
    folder = Folder(root)

    def opened(_path: Path, _mode: str) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(Path, "open", opened)
    if number == errno.EIO:
        with pytest.raises(OSError, match="no"):
            folder.read("a\u00a0", limit=1)
    else:
        with pytest.raises(DropRejected) as caught:
            folder.read("a\u00a0", limit=1)
        assert (str(caught.value), caught.value.reason) == (
            "'a?' cannot be read: PermissionError. Check its permissions.",
            "unreadable",
        )


def test_a_configuration_has_a_limit(root: Path) -> None:
    (root / "a.json").write_text('{"a": 1}')
    assert Folder(root).json("a.json") == {"a": 1}
    assert Folder(root).json("a.json", limit=8) == json_file(root / "a.json", "x") == {"a": 1}
    with pytest.raises(DropRejected) as caught:
        Folder(root).json("a.json", limit=7)
    assert (str(caught.value), caught.value.reason) == (
        "'a.json' is larger than 7 bytes, the limit for a configuration. "
        "Remove it or replace it with the model's own file.",
        "file-too-large",
    )


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        ("MAX_JSON_CONTAINERS", {"a": [[]]}),
        ("MAX_JSON_CONTAINERS", {"a": {"b": {}}}),
        ("MAX_JSON_VALUES", {"a": 1, "b": [1, 2], "c": 0}),
    ],
)
def test_entries_are_counted(monkeypatch: pytest.MonkeyPatch, limit: str, value: object) -> None:
    monkeypatch.setattr(module, limit, 3)
    data = json.dumps(value).encode()
    assert json_object(data, "x") == value
    monkeypatch.setattr(module, limit, 2)
    with pytest.raises(DropRejected) as caught:
        json_object(data, "x")
    assert (str(caught.value), caught.value.reason) == (
        "x has too many entries. Replace it with the model's own.",
        "absurd-counts",
    )


@pytest.mark.parametrize(
    ("data", "why", "reason"),
    [
        (b"{", "x is not valid JSON (Expecting property name enclosed in double quotes: line 1 "
         "column 2 (char 1)). Copy it again.", "bad-json"),
        (b"7", "x is not a JSON object. Replace it with the model's own.", "no-json-object"),
        (b'{"b": {"a": 1, "a": 1}}', "A configuration has a duplicate key, which parsers "
         "interpret differently. Remove one.", "duplicate-key"),
    ],
)  # fmt: skip
def test_what_is_no_object_is_refused(data: bytes, why: str, reason: str) -> None:
    with pytest.raises(DropRejected) as caught:
        json_object(data, "x")
    assert (str(caught.value), caught.value.reason) == (why, reason)


# --- what is parsed once --------------------------------------------------------------------------


class Reader:
    """Returns ``parsed``, and counts how often."""

    def __init__(self, parsed: Any) -> None:
        self.parsed = parsed
        self.reads: list[tuple[Path, str]] = []

    def __call__(self, path: Path, what: str) -> Any:
        self.reads.append((path, what))
        if isinstance(self.parsed, Exception):
            raise self.parsed
        return self.parsed


@pytest.mark.parametrize(
    ("limit", "parsed", "reads"),
    [(20, [0] * 10, 1), (19, [0] * 10, 2), (20_000, 7, 1), (19_999, 7, 2)],
)
def test_parsed_entries_are_counted(
    root: Path, monkeypatch: pytest.MonkeyPatch, limit: int, parsed: Any, reads: int
) -> None:
    monkeypatch.setattr(module, "CACHED_ITEMS", limit)
    folder, first, second = Folder(root), Reader(parsed), Reader(parsed)
    for _ in range(2):
        assert folder.parse("a\n", first) == folder.parse("a\n", second) == parsed
    assert first.reads == [(root / "a\n", "a?")]
    assert len(second.reads) == reads


def test_each_file_and_reader_is_remembered_for_itself(root: Path) -> None:
    folder, first, second = Folder(root), Reader([1]), Reader([2])
    assert [folder.parse(name, reader) for name in "ab" for reader in (first, second)] == [
        [1],
        [2],
    ] * 2
    assert len(first.reads) == len(second.reads) == 2


def test_a_refused_file_is_read_again(root: Path) -> None:
    folder, reader = Folder(root), Reader(DropRejected("no", reason="x"))
    for _ in range(2):
        with pytest.raises(DropRejected, match="no"):
            folder.parse("a", reader)
    assert len(reader.reads) == 2
