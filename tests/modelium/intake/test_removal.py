"""Folders are deleted whatever their shape and permissions, and nothing beside them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest

from modelium.intake.fingerprint import Fingerprint, fingerprint
from modelium.intake.removal import remove, remove_quietly
from modelium.intake.space import need_space, size_of


def open_in(folder: Path) -> list[str]:
    """Files in ``folder`` that this process has open."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return [path for path in found if path.startswith(str(folder))]


def test_folders_are_deleted_whatever_their_permissions(unprivileged: Path) -> None:
    folder = unprivileged / "m"
    inner = folder / "a" / "b" / "c"
    inner.mkdir(parents=True)
    for place in (folder, folder / "a", folder / "a" / "b", inner):
        (place / "file").touch()
        (place / "empty").mkdir(mode=0)
    for place in (inner, folder / "a" / "b", folder / "a", folder):
        place.chmod(0)
    remove(folder)
    assert list(unprivileged.iterdir()) == []


def test_what_a_link_leads_to_stays(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    (kept / "sub").mkdir(parents=True)
    (kept / "file").touch()
    (tmp_path / "m" / "a").mkdir(parents=True)
    for place in (tmp_path, tmp_path / "m", tmp_path / "m" / "a"):
        (place / "link").symlink_to(kept)
    for name in ("link", "m", "gone"):
        remove(tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]
    assert sorted(p.name for p in kept.iterdir()) == ["file", "sub"]
    remove(kept / "file")
    assert [p.name for p in kept.iterdir()] == ["sub"]


def test_a_folder_deeper_than_any_path_is_deleted(tmp_path: Path) -> None:
    at = os.open(tmp_path, os.O_RDONLY)
    for _ in range(60):
        os.mkdir("d" * 200, dir_fd=at)
        inner = os.open("d" * 200, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)
    remove(tmp_path / ("d" * 200))
    assert list(tmp_path.iterdir()) == []
    assert open_in(tmp_path) == []


def test_what_cannot_be_deleted_is_an_error_unless_it_is_no_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m" / "a").mkdir(parents=True)
    (tmp_path / "m" / "a" / "x").touch()

    def unlink(*_args: object, **_given: object) -> None:
        raise PermissionError(1, "no")

    monkeypatch.setattr(os, "unlink", unlink)
    with pytest.raises(PermissionError):
        remove(tmp_path / "m")
    remove_quietly(tmp_path / "m")
    assert open_in(tmp_path) == []
    assert (tmp_path / "m").exists()


# --- what a drop takes ----------------------------------------------------------------------------


def test_a_fingerprint_counts_all_that_is_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    (folder / "sub").mkdir(parents=True)
    (folder / "a").write_bytes(b"12345")
    (folder / "sub" / "b").write_bytes(b"1")
    (folder / "link").symlink_to("a")
    times = {"": 3, "a": 9, "sub": 1, "sub/b": 5}
    for name in ("sub/b", "a", "sub", ""):
        os.utime(folder / name, ns=(0, times[name] * 10**9))
    os.utime(folder / "link", ns=(0, 10**9), follow_symlinks=False)
    entries = [folder, *folder.rglob("*")]
    infos = [entry.lstat() for entry in entries]
    found = fingerprint(folder)
    assert found == Fingerprint(
        entries=5,
        total_bytes=sum(info.st_size for info in infos),
        modified_ns=9 * 10**9,
        changed_ns=max(info.st_ctime_ns for info in infos),
    )
    assert found.changed_at == pytest.approx(found.changed_ns / 10**9, abs=1e-6)
    assert size_of(folder) == found.total_bytes
    changed = (folder / "a").stat().st_ctime_ns
    assert fingerprint(folder / "a") == Fingerprint(1, 5, 9 * 10**9, changed)
    assert (size_of(folder / "a"), size_of(tmp_path / "gone")) == (5, 0)


def test_files_that_go_while_they_are_looked_at_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        (tmp_path / name).touch()
    scandir = os.scandir

    def guarded(path: str) -> object:
        found = scandir(path)
        (tmp_path / "b").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(os, "scandir", guarded)
    found = fingerprint(tmp_path)
    assert found is not None
    assert found.entries == 3


def test_space_is_needed_on_the_disk_of_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    class Usage:
        free = 3 * 1024**3

    def disk_usage(path: Path) -> Usage:
        asked.append(path)
        return Usage()

    monkeypatch.setattr("shutil.disk_usage", disk_usage)
    need_space(tmp_path, 3 * 1024**3)
    with pytest.raises(OSError, match="takes") as caught:
        need_space(tmp_path, 3 * 1024**3 + 1)
    assert (caught.value.errno, caught.value.filename) == (28, str(tmp_path))
    assert caught.value.strerror == "it takes 3.0 GiB more, and 3.0 GiB are free"
    assert asked == [tmp_path] * 2
