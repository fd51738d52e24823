"""The trash on a disk that is full, slow, damaged or partly of another user."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelium.intake.trash import NOTE, Trash
from modelium.models import Version

AT = 1_700_000_000.0


@pytest.fixture
def trash(tmp_path: Path) -> Trash:
    return Trash(folder=tmp_path / "repository" / ".trash")


def removed(trash: Trash, name: str = "m", *, purge: bool = False) -> Version:
    folder = trash.folder.parent / name
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"weights")
    return Version(
        model=name,
        version=1,
        digest="sha256:0",
        path=str(folder),
        registered_at=AT,
        removed_at=AT,
        removed_by="x",
        purge=purge,
    )


@pytest.fixture
def undeletable(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Names of files that this user may not delete."""
    names: set[str] = set()
    unlink = os.unlink

    def guarded(path: str, *args: object, **given: object) -> None:
        if os.path.basename(path) in names:
            raise PermissionError(1, "Operation not permitted", path)
        unlink(path, *args, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "unlink", guarded)
    yield names
    monkeypatch.undo()


def test_files_that_arrive_while_the_trash_is_emptied_stay(
    trash: Trash, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = removed(trash)
    noted, emptied = threading.Event(), threading.Event()
    rename = os.rename

    def slow(source: str, target: str) -> None:
        noted.set()
        emptied.wait(timeout=0.2)
        rename(source, target)

    monkeypatch.setattr(os, "rename", slow)
    putting = threading.Thread(target=trash.put, args=(version,))
    putting.start()
    assert noted.wait(timeout=60)
    emptying = threading.Thread(target=lambda: (trash.expire(before=AT - 1), emptied.set()))
    emptying.start()
    for thread in (putting, emptying):
        thread.join(timeout=60)
    (entry,) = trash.entries()
    assert (entry.folder / "model.onnx").is_file()


def test_files_whose_note_a_crash_has_emptied_are_kept_for_the_retention(trash: Trash) -> None:
    place = trash.put(removed(trash))
    assert place is not None
    (place.parent / NOTE).write_text("")
    moved_at = place.parent.stat().st_ctime
    trash.expire(before=moved_at - 60)
    assert (place / "model.onnx").is_file()
    trash.expire(before=moved_at + 60)
    assert not list(trash.folder.iterdir())


def test_an_entry_that_cannot_be_deleted_costs_no_other(
    trash: Trash, undeletable: set[str]
) -> None:
    for name in ("a", "b"):
        trash.put(removed(trash, name))
    (trash.folder.parent / "elsewhere").mkdir()
    (stuck, _other) = sorted(trash.folder.iterdir())
    (stuck / "a" / "stuck").write_text("")
    undeletable.add("stuck")
    trash.expire(before=AT + 1)
    assert [entry.name for entry in trash.folder.iterdir()] == [stuck.name]


def test_purging_needs_no_space(trash: Trash, monkeypatch: pytest.MonkeyPatch) -> None:
    version = removed(trash, purge=True)

    def full(*_args: object, **_given: object) -> None:
        raise OSError(28, "No space left on device")

    for writer in ("write_text", "write_bytes", "mkdir"):
        monkeypatch.setattr(Path, writer, full)
    assert trash.put(version) is None
    assert not Path(version.path).exists() and not list(trash.folder.iterdir())


def test_a_purge_that_stops_half_way_is_continued(trash: Trash, undeletable: set[str]) -> None:
    version = removed(trash, purge=True)
    undeletable.add("model.onnx")
    assert trash.put(version) is None
    assert not Path(version.path).exists() and trash.entries() == []
    undeletable.clear()
    trash.expire(before=AT - 1)
    assert not list(trash.folder.iterdir())


@pytest.mark.parametrize("purge", [False, True])
def test_what_is_put_at_the_path_of_removed_files_is_not_taken(
    trash: Trash, undeletable: set[str], purge: bool
) -> None:
    """After a crash between moving the files and noting that they were moved."""
    version = removed(trash, purge=purge)
    undeletable.add("model.onnx")
    place = trash.put(version)
    fresh = Path(version.path)
    fresh.mkdir()
    assert trash.put(version) == place
    assert fresh.is_dir()


def test_the_place_of_files_is_still_known_when_they_are_put_again(trash: Trash) -> None:
    version = removed(trash)
    assert trash.put(version) == trash.put(version) != None  # noqa: E711 - a chain


def test_a_note_that_does_not_fit_the_disk_leaves_the_files(
    trash: Trash, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = removed(trash)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        trash.put(version)
    assert (Path(version.path) / "model.onnx").is_file()
    monkeypatch.undo()
    trash.expire(before=AT - 1)
    assert not list(trash.folder.iterdir())
    assert trash.put(version) is not None


def test_a_trash_folder_that_somebody_deleted_is_made_again(trash: Trash) -> None:
    trash.folder.rmdir()
    assert trash.entries() == [] and trash.expire(before=AT) == []
    assert trash.put(removed(trash)) is not None
