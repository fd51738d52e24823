"""Moves and copies: what arrives, what stays, what is synced, and what cannot be copied."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from modelium.errors import DropRejected
from modelium.intake import copying
from modelium.intake import moving as module
from modelium.intake.moving import (
    COPYING,
    TAKEN,
    clear,
    copy,
    is_deletable,
    is_own,
    move,
    sync_tree,
    take_away,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with files, a folder in it and links."""
    made = tmp_path / "m"
    (made / "sub" / "inner").mkdir(parents=True)
    (made / "weights").write_bytes(b"w" * 100_000)
    (made / "sub" / "a").write_bytes(b"a")
    (made / "link").symlink_to("nowhere")
    (made / "sub" / "inner" / "b").write_bytes(b"")
    return made


def open_in(folder: Path) -> list[str]:
    """Files in ``folder`` that this process has open."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return [path for path in found if path.startswith(str(folder))]


def tree(root: Path) -> dict[str, bytes | str | None]:
    """Each path with its contents, where it leads, or nothing."""
    return {
        path.relative_to(root).as_posix(): os.readlink(path)
        if path.is_symlink()
        else None
        if path.is_dir()
        else path.read_bytes()
        for path in sorted(root.rglob("*"))
    }


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every folder on a file system of its own."""
    rename = os.rename

    def guarded(source: Path, target: Path, **given: int) -> None:
        if not given and Path(source).parent != Path(target).parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(source, target, **given)

    monkeypatch.setattr(os, "rename", guarded)


# --- move -----------------------------------------------------------------------------------------


def test_a_move_within_a_file_system_is_a_rename(folder: Path, tmp_path: Path) -> None:
    before, number, noted = tree(folder), folder.stat().st_ino, []
    assert move(folder, tmp_path / "n", note=noted.append) is True
    assert (tree(tmp_path / "n"), (tmp_path / "n").stat().st_ino) == (before, number)
    assert not folder.exists()
    assert noted == []


@pytest.mark.usefixtures("apart")
def test_a_move_to_another_file_system_notes_which_one_to_keep(
    folder: Path, tmp_path: Path
) -> None:
    before, target = tree(folder), tmp_path / "other" / "n"
    target.parent.mkdir()
    noted: list[tuple[bool, bool, bool]] = []

    def note(moved: bool) -> None:
        noted.append((moved, folder.exists(), target.exists()))

    assert move(folder, target, note=note) is True
    assert noted == [(False, True, False), (True, True, True)]
    assert tree(target) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other"]


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("deletable", [False, True])
def test_what_cannot_be_taken_away_stays(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    deletable: bool,
) -> None:
    """It is not deletable, or is found so when it is renamed."""
    before, target, noted = tree(folder), tmp_path / "other" / "n", []
    target.parent.mkdir()
    monkeypatch.setattr(os, "access", lambda *_args, **_given: deletable)
    rename = os.rename

    def guarded(source: Path, target: Path) -> None:
        if Path(source) == folder:
            raise OSError(errno.EACCES, "no")
        rename(source, target)

    monkeypatch.setattr(os, "rename", guarded)
    assert move(folder, target, note=noted.append) is False
    assert noted == ([False, True, False] if deletable else [False])
    assert tree(folder) == tree(target) == before
    assert "may not be deleted" in caplog.text


# --- copy -----------------------------------------------------------------------------------------


def test_a_copy_has_contents_times_and_the_owners_permissions(folder: Path, tmp_path: Path) -> None:
    modes = {"weights": 0o777, "sub/a": 0o440, "sub/inner/b": 0o4666}
    for name, mode in modes.items():
        os.utime(folder / name, ns=(1_000_000_001, 2_000_000_003))
        (folder / name).chmod(mode)
    copy(folder, tmp_path / "n")
    found = {name: (tmp_path / "n" / name).stat() for name in modes}
    assert tree(tmp_path / "n") == tree(folder)
    assert {name: stat.S_IMODE(info.st_mode) for name, info in found.items()} == {
        "weights": 0o755,
        "sub/a": 0o640,
        "sub/inner/b": 0o644,
    }
    assert {(i.st_atime_ns, i.st_mtime_ns) for i in found.values()} == {
        (1_000_000_001, 2_000_000_003)
    }
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m", "n"]


def test_a_file_and_a_link_are_copied_as_they_are(folder: Path, tmp_path: Path) -> None:
    (folder / "to").symlink_to("sub")
    for name in ("weights", "to"):
        copy(folder / name, tmp_path / name)
    assert (tmp_path / "weights").read_bytes() == b"w" * 100_000
    assert os.readlink(tmp_path / "to") == "sub"


def test_a_copy_is_synced_before_it_has_its_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    rename = os.rename

    def fsync(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        parts = Path(path).relative_to(tmp_path).parts
        events.append("/".join("copy" if p.startswith(COPYING) else p for p in parts))

    def renamed(source: Path, target: Path) -> None:
        events.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", renamed)
    copy(folder, tmp_path / "n")
    inner = ["copy/sub", "copy/sub/a", "copy/sub/inner", "copy/sub/inner/b", "copy/weights"]
    assert sorted(events[:-3]) == inner
    assert events[-3:] == ["copy", "rename", ""]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), DropRejected("no", reason="x")])
def test_a_copy_that_fails_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    copied = copying._copy_entry

    def failing(source: str, target: str, **given: int | None) -> None:
        if source == "weights":
            raise error
        copied(source, target, **given)

    monkeypatch.setattr(copying, "_copy_entry", failing)
    with pytest.raises(type(error)):
        copy(folder, tmp_path / "n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]


def refused(source: Path, target: Path) -> tuple[str, str]:
    with pytest.raises(DropRejected) as caught:
        copy(source, target)
    return str(caught.value), caught.value.reason


def test_entries_are_counted(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "MAX_FILES", 6)
    copy(folder, tmp_path / "n")
    monkeypatch.setattr(copying, "MAX_FILES", 5)
    assert refused(folder, tmp_path / "o") == (
        "'m' has more than 5 files. Drop one model per folder.",
        "too-many-files",
    )


def test_folders_nest_to_a_depth(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "MAX_DEPTH", 3)
    copy(folder, tmp_path / "n")
    monkeypatch.setattr(copying, "MAX_DEPTH", 2)
    assert refused(folder, tmp_path / "o") == (
        "'m' is nested more than 2 folders deep. Drop the folder that contains the model's files.",
        "too-deep",
    )


SPECIAL = "is a device, socket or pipe. Drop plain files only."
CLOSED = "cannot be read. Let the user that Modelium runs as read it."


def test_a_pipe_is_not_copied(folder: Path, tmp_path: Path) -> None:
    os.mkfifo(folder / "pipe\n")
    assert refused(folder, tmp_path / "n") == (f"'pipe?' {SPECIAL}", "special-file")


def test_a_link_that_comes_after_the_look_is_not_followed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "to").symlink_to("weights")
    monkeypatch.setattr(stat, "S_ISLNK", lambda _mode: False)
    assert refused(folder, tmp_path / "n") == (f"'link' {SPECIAL}", "special-file")
    assert refused(folder / "to", tmp_path / "n") == (f"'to' {SPECIAL}", "special-file")


@pytest.mark.parametrize(
    ("number", "refusal"),
    [
        (errno.ENXIO, (f"'weights' {SPECIAL}", "special-file")),
        (errno.ELOOP, (f"'weights' {SPECIAL}", "special-file")),
        (errno.EACCES, (f"'weights' {CLOSED}", "unreadable")),
        (errno.EIO, None),
    ],
)
def test_a_file_that_cannot_be_opened(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    refusal: tuple[str, str] | None,
) -> None:
    opened = os.open

    def guarded(path: str | Path, *args: int, **given: int) -> int:
        if path == "weights":
            raise OSError(number, "no")
        return opened(path, *args, **given)

    monkeypatch.setattr(os, "open", guarded)
    if refusal is None:
        with pytest.raises(OSError, match="no"):
            copy(folder, tmp_path / "n")
    else:
        assert refused(folder, tmp_path / "n") == refusal


def test_a_folder_that_cannot_be_listed_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def guarded(path: str | Path, *args: int, **given: int) -> int:
        if path == "inner":
            raise PermissionError(errno.EACCES, "no")
        return opened(path, *args, **given)

    monkeypatch.setattr(os, "open", guarded)
    assert refused(folder, tmp_path / "n") == (f"'inner' {CLOSED}", "unreadable")


def stopping_after(calls: int) -> Callable[[int, int, int], int]:
    """The kernel's copy, 10 bytes at once; it fails at a later call."""
    left = [calls]
    copied = os.copy_file_range

    def copy_file_range(source: int, target: int, _count: int) -> int:
        if left[0] == 0:
            raise OSError(errno.EIO, "no")
        left[0] -= 1
        return copied(source, target, 10)

    return copy_file_range


@pytest.mark.parametrize("calls", [0, 1, 3])
def test_a_copy_by_the_kernel_that_fails_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    data = bytes(range(100))
    (tmp_path / "a").write_bytes(data)
    monkeypatch.setattr(os, "copy_file_range", stopping_after(calls))
    copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == data


@pytest.mark.parametrize("size", [0, 1, 25])
def test_a_copy_by_the_kernel_goes_on_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    (tmp_path / "a").write_bytes(bytes(range(size)))
    monkeypatch.setattr(os, "copy_file_range", stopping_after(9))
    copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == bytes(range(size))


@pytest.mark.parametrize("way", ["at its end", "none"])
def test_without_the_kernels_help_a_file_is_read_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    data = bytes(range(250))
    (tmp_path / "a").write_bytes(data)
    monkeypatch.setattr(copying, "_CHUNK", 100)
    if way == "none":
        monkeypatch.delattr(os, "copy_file_range")
    else:
        monkeypatch.setattr(os, "copy_file_range", lambda *_args: 0)
    copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == data


# --- whose it is ----------------------------------------------------------------------------------


@pytest.fixture
def owned(folder: Path) -> Path:
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755)
    return folder


def test_what_only_this_user_may_write_to_is_its_own(owned: Path) -> None:
    assert is_own(owned)
    assert is_own(owned / "weights")
    assert is_own(owned / "link")


def test_what_a_link_leads_to_does_not_matter(owned: Path, tmp_path: Path) -> None:
    (owned / "weights").chmod(0o666)
    (tmp_path / "to").symlink_to(owned)
    assert is_own(tmp_path / "to")


@pytest.mark.parametrize("mode", [0o775, 0o757])
@pytest.mark.parametrize("name", ["", "weights", "sub", "sub/inner/b"])
def test_what_others_may_write_to_is_not(owned: Path, name: str, mode: int) -> None:
    (owned / name).chmod(mode)
    assert not is_own(owned)
    assert not is_own(owned / name)


def test_a_file_of_two_names_is_not(owned: Path, tmp_path: Path) -> None:
    os.link(owned / "sub" / "a", tmp_path / "another")
    assert not is_own(owned)
    assert not is_own(tmp_path / "another")


def test_a_file_of_another_user_is_not(owned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: owned.stat().st_uid + 1)
    assert not is_own(owned)
    assert is_own(owned / "link")


def test_all_folders_have_to_be_writable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "to").symlink_to("sub")
    asked: list[tuple[str, int, bool]] = []

    def access(path: str, mode: int, *, effective_ids: bool) -> bool:
        asked.append((os.path.relpath(path, folder), mode, effective_ids))
        return "inner" not in path

    monkeypatch.setattr(os, "access", access)
    assert is_deletable(folder / "weights")
    assert is_deletable(folder / "to")
    assert asked == []
    assert not is_deletable(folder)
    assert asked == [(name, os.W_OK | os.X_OK, True) for name in (".", "sub", "sub/inner")]
    assert not is_deletable(folder / "sub")
    (folder / "sub" / "inner").rename(folder / "fine")
    assert is_deletable(folder)


# --- what is left ---------------------------------------------------------------------------------


def test_a_crash_leaves_nothing_that_looks_like_a_drop(folder: Path, tmp_path: Path) -> None:
    (folder / f"{COPYING}1").mkdir()
    (folder / f"{COPYING}1" / "x").touch()
    (folder / f"{TAKEN}2").touch()
    (folder / "sub" / f"{TAKEN}3").touch()
    clear(folder)
    assert sorted(tree(folder)) == [
        "link", "sub", f"sub/{TAKEN}3", "sub/a", "sub/inner", "sub/inner/b", "weights",
    ]  # fmt: skip


def test_what_is_taken_away_is_renamed_first(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(module, "remove_quietly", lambda path: seen.append(path.name))
    before = tree(folder)
    take_away(folder)
    (aside,) = tmp_path.iterdir()
    assert seen == [aside.name]
    assert aside.name.startswith(TAKEN)
    assert tree(aside) == before


def test_links_and_pipes_are_not_synced(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "again").symlink_to("weights")
    (tmp_path / "to").symlink_to(folder)
    synced: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda number: synced.append(os.readlink(f"/proc/self/fd/{number}"))
    )
    sync_tree(tmp_path / "to")
    assert synced == []
    sync_tree(folder / "weights")
    assert synced == [str(folder / "weights")]
    synced.clear()
    sync_tree(folder)
    assert sorted(os.path.relpath(path, folder) for path in synced) == [
        ".",
        "sub",
        "sub/a",
        "sub/inner",
        "sub/inner/b",
        "weights",
    ]
    assert synced[-1] == str(folder)
    assert open_in(tmp_path) == []
