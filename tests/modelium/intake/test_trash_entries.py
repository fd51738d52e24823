"""What the trash holds: entries, what they are called, and how long they stay."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from modelium.errors import InputError
from modelium.intake.trash import DOOMED, NOTE, Trash, TrashEntry
from modelium.models import Version

AT = 1_700_000_000.0  # 14 November 2023, 22:13:20


@pytest.fixture
def trash(tmp_path: Path) -> Trash:
    return Trash(folder=tmp_path / "repository" / ".trash")


def removed(
    trash: Trash, name: str = "m", *, version: int = 1, at: float | None = AT, purge: bool = False
) -> Version:
    folder = trash.folder.parent / f"{name}@{version}"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"weights")
    return Version(
        model=name,
        version=version,
        digest="sha256:0",
        path=str(folder),
        registered_at=AT,
        removed_at=at,
        removed_by="x",
        purge=purge,
        team="lab",
    )


def names(trash: Trash) -> list[str]:
    return sorted(entry.name for entry in trash.folder.iterdir())


def test_an_entry_says_what_it_was(trash: Trash, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_size))
    version = removed(trash, version=2)
    place = trash.put(version)
    entry = trash.folder / "m@2-20231114T221320"
    assert place == entry / "m"
    assert (place / "model.onnx").read_bytes() == b"weights"
    assert not Path(version.path).exists()
    note = json.loads((entry / NOTE).read_text())
    assert note == {
        "model": "m", "version": 2, "digest": "sha256:0", "at": AT, "by": "x", "team": "lab",
        "purge": False,
    }  # fmt: skip
    assert synced == [(entry / NOTE).stat().st_size], "before the files arrive"
    assert trash.entries() == [
        TrashEntry(name=entry.name, model="m", version=2, at=AT, by="x", team="lab", folder=place)
    ]
    assert (trash.team_of(entry), trash.team_of(trash.folder / "none")) == ("lab", None)


def test_a_version_without_a_time_was_removed_now(trash: Trash) -> None:
    before = time.time()
    trash.put(removed(trash, at=None))
    (entry,) = trash.entries()
    assert before <= entry.at <= time.time()
    assert entry.name == f"m@1-{time.strftime('%Y%m%dT%H%M%S', time.gmtime(entry.at))}"


def test_what_is_gone_already_makes_no_entry(trash: Trash) -> None:
    version = removed(trash)
    (Path(version.path) / "model.onnx").unlink()
    Path(version.path).rmdir()
    assert trash.put(version) is None
    assert names(trash) == []


def test_the_newest_entry_of_a_name_is_found(trash: Trash) -> None:
    for version, at in ((1, AT), (2, AT + 20), (3, AT + 10)):
        trash.put(removed(trash, version=version, at=at))
    trash.put(removed(trash, "n", at=AT + 30))
    assert [(entry.model, entry.version) for entry in trash.entries()] == [
        ("n", 1), ("m", 2), ("m", 3), ("m", 1),
    ]  # fmt: skip
    found = {name: trash.find(name).version for name in ("m", "m@3", "m@1-20231114T221320")}
    assert found == {"m": 2, "m@3": 3, "m@1-20231114T221320": 1}
    with pytest.raises(InputError) as caught:
        trash.find("m@4")
    why = "the trash holds no 'm@4'; `modelium trash ls` lists what it holds"
    assert str(caught.value) == why


@pytest.mark.parametrize(
    "change",
    [
        {"purge": True},
        {"model": "other"},
        {"version": "x"},
        {"at": None},
        {"by": ...},
        {"purge": ...},
        {"model": ...},
    ],
)
def test_what_is_no_entry_is_not_listed(trash: Trash, change: dict[str, object]) -> None:
    """Restored, being deleted, or with a note that says too little."""
    place = trash.put(removed(trash))
    assert place is not None
    note = place.parent / NOTE
    changed = json.loads(note.read_text()) | change
    note.write_text(json.dumps({k: v for k, v in changed.items() if v is not ...}))
    (trash.folder / "file").touch()
    assert trash.entries() == []


def test_entries_expire_at_their_time(trash: Trash) -> None:
    for version in (1, 2, 3):
        trash.put(removed(trash, version=version, at=AT + version))
    (trash.folder / "file").touch()
    gone = trash.expire(before=AT + 2)
    assert gone == ["m@1-20231114T221321"]
    assert names(trash) == ["file", "m@2-20231114T221322", "m@3-20231114T221323"]


def left(trash: Trash, name: str, *files: str, note: str | None = None) -> Path:
    folder = trash.folder / name
    folder.mkdir()
    for file in files:
        (folder / file).touch()
    if note is not None:
        (folder / NOTE).write_text(note)
    return folder


def test_what_is_no_entry_any_more_is_deleted_at_once(trash: Trash) -> None:
    left(trash, f"{DOOMED}m", "weights")
    left(trash, "restored", note='{"model": "m", "purge": false}')
    left(trash, "empty")
    left(trash, "purged", "m", note='{"model": "m", "purge": true}')
    assert sorted(trash.expire(before=0)) == [f"{DOOMED}m", "empty", "purged", "restored"]
    assert names(trash) == []


@pytest.mark.parametrize("note", [None, "", "{", "[]", '{"model": "m"}', '{"purge": true}'])
def test_files_without_a_note_stay_for_the_retention(trash: Trash, note: str | None) -> None:
    folder = left(trash, "lost", "weights", note=note)
    changed = folder.stat().st_ctime
    assert trash.expire(before=changed) == []
    assert names(trash) == ["lost"]
    assert trash.expire(before=changed + 1) == ["lost"]
    assert names(trash) == []


def test_one_entry_is_deleted(trash: Trash) -> None:
    for name in "mn":
        trash.put(removed(trash, name))
    trash.delete("m@1-20231114T221320")
    assert names(trash) == ["n@1-20231114T221320"]


@pytest.mark.parametrize("there", [False, True])
def test_a_purge_of_before_is_finished_first(trash: Trash, there: bool) -> None:
    """What lies at the path by then is another one's."""
    version = removed(trash, purge=True)
    if there:
        left(trash, f"{DOOMED}m@1-20231114T221320", "weights")
    assert trash.put(version) is None
    assert names(trash) == []
    assert Path(version.path).exists() is there


def test_what_cannot_be_deleted_is_told_and_not_counted(
    trash: Trash, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trash.put(removed(trash))

    def unlink(*_args: object, **_given: object) -> None:
        raise PermissionError(1, "no")

    monkeypatch.setattr(os, "unlink", unlink)
    assert trash.expire(before=AT + 1) == []
    assert "cannot be deleted" in caplog.text
