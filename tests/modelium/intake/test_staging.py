"""How a drop comes into staging, and what a restart makes of what it finds there."""

from __future__ import annotations

import errno
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from modelium.analysis.readers.laid import Laid
from modelium.config import Orchestration
from modelium.errors import DropRejected
from modelium.intake.contents import ORIGINAL
from modelium.intake.moving import COPYING, TAKEN
from modelium.intake.names import REASON
from modelium.intake.origin import ORIGIN, Origin
from modelium.intake.repository import ModelRepository

REFUSED = DropRejected("it holds pickles", reason="pickle")


def opened(root: Path) -> ModelRepository:
    return ModelRepository(
        config=Orchestration(
            model_repository=root / "repository",
            incoming_directory=root / "incoming",
            rejected_directory=root / "rejected",
        )
    )


@pytest.fixture
def repository(tmp_path: Path) -> ModelRepository:
    return opened(tmp_path)


def put(folder: Path, *names: str, data: str = "x") -> Path:
    for name in names or ("a",):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(data)
        (folder / name).chmod(0o644)
    folder.chmod(0o755)
    return folder


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir())


def tar(path: Path, *names: str) -> Path:
    packed = put(path.parent.parent / "packed", *names)
    with tarfile.open(path, "w") as archive:
        for name in names:
            archive.add(packed / name, arcname=name)
    return path


@pytest.fixture
def no_space(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Have nothing free; the folders whose disk was asked, and how much was written there."""
    asked: list[tuple[str, int]] = []

    class Usage:
        free = -1

    def disk_usage(path: Path) -> Usage:
        asked.append((path.parent.name, len(files(path))))
        return Usage()

    monkeypatch.setattr("shutil.disk_usage", disk_usage)
    return asked


# --- stage ----------------------------------------------------------------------------------------


def test_what_is_moved_and_what_is_copied(repository: ModelRepository, tmp_path: Path) -> None:
    staging = repository._staging
    trash = repository.trash.folder
    owned = (repository.incoming / "m", repository.rejected / "m" / "m", trash / "m@1" / "m")
    assert [staging.owns(path) for path in owned] == [True] * 3
    others = (
        tmp_path / "m",
        repository.incoming / "m" / "sub",
        repository.rejected / "m",
        trash / "m@1",
        repository.published / "m",
    )
    assert [staging.owns(path) for path in others] == [False] * 5


def test_a_folder_named_like_an_archive_is_a_folder(repository: ModelRepository) -> None:
    staged = repository.stage(put(repository.incoming / "m.zip"), name=None)
    assert (staged.name, files(staged.folder)) == ("m.zip", ["a"])


@pytest.mark.parametrize(
    ("names", "unpacked"),
    [
        (["m/a", "m/b"], ["a", "b"]),
        (["m/sub/a"], ["sub/a"]),
        (["m/a", "b"], ["b", "m/a"]),
        (["m/a", "n/a"], ["m/a", "n/a"]),
        (["a"], ["a"]),
    ],
)
def test_an_archive_of_one_folder_is_that_folder(
    repository: ModelRepository, names: list[str], unpacked: list[str]
) -> None:
    archive = tar(repository.incoming / "m.tar", *names)
    staged = repository.stage(archive, name=None)
    assert (staged.name, staged.moved, files(staged.folder)) == ("m", True, unpacked)
    assert not archive.exists()
    own = staged.folder.parent
    assert files(own) == [f"{ORIGINAL}/m.tar", *(f"m/{name}" for name in unpacked), ORIGIN]
    assert Origin.read(own) == Origin(path=str(archive), name="m", archive=True)


def test_an_archive_from_elsewhere_stays_there(repository: ModelRepository, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    archive = tar(tmp_path / "home" / "m.tar", "a")
    staged = repository.stage(archive, name="n")
    assert (staged.name, staged.moved, files(staged.folder)) == ("n", False, ["a"])
    assert archive.exists()
    assert files(staged.folder.parent / ORIGINAL) == []


def test_a_file_from_elsewhere_is_copied_into_a_folder(
    repository: ModelRepository, tmp_path: Path
) -> None:
    put(tmp_path / "home", "m.gguf")
    staged = repository.stage(tmp_path / "home" / "m.gguf", name="n")
    assert (staged.name, staged.moved, files(staged.folder)) == ("n", False, ["m.gguf"])
    assert files(tmp_path / "home") == ["m.gguf"]
    assert sorted(p.name for p in staged.folder.parent.iterdir()) == [ORIGINAL, "n", ORIGIN]


def test_unpacked_files_are_synced(
    repository: ModelRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tar(repository.incoming / "m.tar", "m/a", "m/b")
    synced: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda file: synced.append(Path(os.readlink(f"/proc/self/fd/{file}")).name)
    )
    repository.stage(archive, name=None)
    assert sorted(synced[-3:]) == ["a", "b", "m"]


def test_a_laid_model_is_taken_without_what_was_laid(
    repository: ModelRepository, tmp_path: Path
) -> None:
    """Its files are not copied because Triton's links lead to them."""
    for number, root in enumerate((repository.incoming, tmp_path / "home")):
        model = put(root / "m")
        Laid(version=1, folder="1").write(model)
        (model / "1").mkdir()
        os.link(model / "a", model / "1" / "a")
        inode = (model / "a").stat().st_ino
        staged = repository.stage(model, name=f"m{number}")
        assert files(staged.folder) == ["a"]
        assert ((staged.folder / "a").stat().st_ino == inode) is staged.moved is (number == 0)


def test_a_refused_drop_leaves_no_empty_folder_wherever_the_root_is(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    repository = opened(tmp_path / "link")
    drop = put(repository.incoming / "m")
    staged = repository.stage(drop, name=None)
    assert Origin.read(staged.folder.parent).path == str(drop)
    folder = repository.reject(staged, REFUSED, digest="", asked={})
    repository.stage(folder / "m", name=None)
    assert list(repository.rejected.iterdir()) == []


def shared(repository: ModelRepository) -> Path:
    drop = put(repository.incoming / "m", "a", "b")
    (drop / "b").chmod(0o666)
    return drop


def archived(repository: ModelRepository) -> Path:
    return tar(repository.incoming / "m.tar", "m/a")


@pytest.mark.parametrize("writable", [False, True], ids=["own", "writable by others"])
@pytest.mark.parametrize("deletable", [False, True])
def test_a_drop_is_copied_that_others_may_write_to(
    repository: ModelRepository,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    deletable: bool,
    writable: bool,
) -> None:
    """Without a move where it could not be deleted afterwards."""
    drop = put(repository.incoming / "m", "a", "b")
    (drop / "b").chmod(0o666 if writable else 0o644)
    inode = (drop / "b").stat().st_ino
    monkeypatch.setattr(os, "access", lambda *_args, **_given: deletable)
    staged = repository.stage(drop, name=None)
    own, stays = staged.folder.parent, writable and not deletable
    assert files(staged.folder) == ["a", "b"]
    assert files(own / ORIGINAL) == []
    assert ((staged.folder / "b").stat().st_ino == inode) is not writable
    assert (staged.moved, drop.exists()) == (not stays, stays)
    origin = Origin.read(own)
    assert (origin.is_copy_of(drop), origin.moved) == (stays, not stays)
    assert ("may not be deleted" in caplog.text) is stays
    repository.discard(staged)
    assert files(repository.incoming) == (["m/a", "m/b"] if stays else [])


def test_a_shared_file_is_staged_in_a_folder_of_its_own(repository: ModelRepository) -> None:
    put(repository.incoming, "m.gguf")
    (repository.incoming / "m.gguf").chmod(0o666)
    staged = repository.stage(repository.incoming / "m.gguf", name=None)
    assert files(staged.folder) == ["m.gguf"]
    assert not (staged.folder / "m.gguf").stat().st_mode & 0o022


@pytest.mark.parametrize("deletable", [False, True])
@pytest.mark.parametrize("drop_of", [shared, archived])
def test_a_disk_without_space_is_noticed_before_it_is_full(
    repository: ModelRepository,
    no_space: list[tuple[str, int]],
    monkeypatch: pytest.MonkeyPatch,
    drop_of: Callable[[ModelRepository], Path],
    deletable: bool,
) -> None:
    drop = drop_of(repository)
    monkeypatch.setattr(os, "access", lambda *_args, **_given: deletable)
    before = files(repository.incoming)
    with pytest.raises(OSError, match="GiB are free") as caught:
        repository.stage(drop, name=None)
    assert caught.value.errno == errno.ENOSPC
    assert [name for name, _ in no_space] == [".staging"]
    assert files(repository.incoming) == before
    assert list(repository.staging.iterdir()) == []


def test_a_shared_drop_that_is_refused_returns(repository: ModelRepository) -> None:
    drop = shared(repository)
    os.mkfifo(drop / "pipe")
    with pytest.raises(DropRejected) as caught:
        repository.stage(drop, name=None)
    assert caught.value.reason == "special-file"
    assert files(drop) == ["a", "b", "pipe"]
    assert list(repository.staging.iterdir()) == []


def test_a_copy_that_cannot_be_noted_is_deleted_and_the_drop_stays(
    repository: ModelRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another file system, with a disk that is full after the copy."""
    drop = put(repository.incoming / "m", "a", "b")
    rename = os.rename

    def apart(source: Path, target: Path, **given: int) -> None:
        if Path(source) == drop:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(source, target, **given)

    def fsync(file: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{file}"))
        if path.name == f".{ORIGIN}" and files(path.parent / ORIGINAL):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "rename", apart)
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space"):
        repository.stage(drop, name=None)
    assert files(repository.incoming) == ["m/a", "m/b"]
    assert list(repository.staging.iterdir()) == []


# --- out of staging -------------------------------------------------------------------------------


def test_of_an_archive_the_archive_is_rejected(repository: ModelRepository) -> None:
    staged = repository.stage(archived(repository), name=None)
    noted: list[Origin] = []
    rename = os.rename

    def renamed(source: Path, target: Path) -> None:
        if Path(target).is_relative_to(repository.rejected):
            noted.append(Origin.read(staged.folder.parent))
        rename(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "rename", renamed)
        folder = repository.reject(staged, REFUSED, digest="", asked={})
    assert files(folder) == ["m.tar", REASON]
    assert [origin.rejected for origin in noted] == [str(folder / "m.tar")]
    assert list(repository.staging.iterdir()) == []


def test_a_staged_drop_is_given_back_and_a_copy_is_not(
    repository: ModelRepository, tmp_path: Path
) -> None:
    moved = repository.stage(put(repository.incoming / "m"), name="n")
    copied = repository.stage(put(tmp_path / "home" / "o"), name=None)
    for staged in (moved, copied, moved):
        repository.give_back(staged)
    assert files(repository.incoming) == ["n/a"]
    assert list(repository.staging.iterdir()) == []


# --- recover --------------------------------------------------------------------------------------


class Left:
    """What an earlier run has left of one drop."""

    def __init__(self, repository: ModelRepository) -> None:
        self.repository = repository
        self.own = repository.staging / "cafe"
        (self.own / ORIGINAL).mkdir(parents=True)
        self.source = repository.incoming / "m"

    def note(self, **given: object) -> None:
        fields = {"path": str(self.source), "name": "n", **given}
        Origin(**fields).write(self.own)  # type: ignore[arg-type]

    def recovered(self) -> tuple[list[str], list[str], list[str]]:
        """Names of what is back, and the files of the drop zone and of the rejected drops."""
        back = self.repository.recover()
        assert list(self.repository.staging.iterdir()) == []
        assert all(path.parent == self.repository.incoming for path in back)
        names = [path.name for path in back]
        return names, files(self.repository.incoming), files(self.repository.rejected)


@pytest.fixture
def left(repository: ModelRepository) -> Left:
    return Left(repository)


@pytest.mark.parametrize("arrived", [False, True])
def test_a_drop_that_was_being_rejected(left: Left, arrived: bool) -> None:
    place = left.repository.rejected / "n"
    put(place, REASON, data="{}")
    left.note(rejected=str(place / "n"))
    put(left.own / "n")
    if arrived:
        put(place / "n")
        assert left.recovered() == ([], [], ["n/n/a", "n/reason.json"])
    else:
        assert left.recovered() == (["n"], ["n/a"], [])


def test_a_drop_of_a_team_that_is_declared_no_more_is_kept_apart(left: Left) -> None:
    put(left.own / "n")
    left.note(team="gone")
    assert left.recovered() == ([], [], ["n/n/a", "n/reason.json"])
    reason = json.loads((left.repository.rejected / "n" / REASON).read_text())
    assert (reason["reason"], reason["team"]) == ("interrupted", "gone")
    assert "its team gone is declared no more; declare the team, or move" in reason["message"]
    assert list(left.repository.staging.iterdir()) == []


def test_a_drop_as_it_came_returns_with_its_ending(left: Left) -> None:
    put(left.own / ORIGINAL, "m.tar.gz")
    put(left.own / "n", "unpacked")
    left.note(archive=True)
    assert left.recovered() == (["n.tar.gz"], ["n.tar.gz"], [])


def test_a_copy_of_a_drop_that_is_still_there_is_deleted(left: Left) -> None:
    put(left.source)
    put(left.own / ORIGINAL / "m")
    Origin(path=str(left.source), name="m").noting(left.own)(False)
    assert left.recovered() == ([], ["m/a"], [])


@pytest.mark.parametrize(("newer", "kept"), [("x", []), ("y", ["m/m/a", "m/reason.json"])])
def test_a_drop_whose_place_is_taken_is_kept_apart_unless_it_is_the_same(
    left: Left, newer: str, kept: list[str]
) -> None:
    put(left.source, data=newer)
    put(left.own / ORIGINAL / "m")
    left.note(name="m")
    assert left.recovered() == ([], ["m/a"], kept)
    assert (left.source / "a").read_text() == newer
    if kept:
        reason = json.loads((left.repository.rejected / "m" / REASON).read_text())
        assert (reason["model"], reason["reason"]) == ("m", "interrupted")
        assert reason["message"] == (
            "another drop called m arrived while this one was taken in, which was interrupted; "
            "move this one into the drop zone to take it in as well"
        )


def test_a_drop_that_cannot_be_compared_is_kept_apart(left: Left) -> None:
    for place in (left.source, left.own / "m"):
        put(place)
        (place / "b").symlink_to("nowhere")
    left.note(name="m")
    assert left.recovered() == ([], ["m/a", "m/b"], ["m/m/a", "m/m/b", "m/reason.json"])


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("stays", [False, True])
def test_what_was_made_of_a_drop_is_deleted_where_that_is_still_there(
    left: Left, archive: bool, moved: bool, stays: bool
) -> None:
    if stays:
        put(left.source)
    put(left.own / "n")
    left.note(archive=archive, moved=moved)
    there = ["m/a"] if stays else []
    if stays and (archive or not moved):
        assert left.recovered() == ([], there, [])
    else:
        assert left.recovered() == (["n"], [*there, "n/a"], [])


def test_a_part_whose_drop_is_gone_is_kept(left: Left) -> None:
    put(left.own / f"{COPYING}1", "a")
    put(left.own / ORIGINAL / f"{COPYING}2", "b")
    (left.own / f"{TAKEN}3").mkdir()
    left.note()
    assert left.recovered() == ([], [], ["n/part-1/a", "n/part-2/b", "n/reason.json"])
    reason = json.loads((left.repository.rejected / "n" / REASON).read_text())
    assert (reason["model"], reason["reason"]) == ("n", "fragment")
    assert reason["message"] == (
        f"only a part of {left.source} was here when Modelium was interrupted, and the drop itself "
        "is gone; drop it again"
    )


def test_a_whole_drop_returns_without_its_parts(left: Left) -> None:
    put(left.own / "n")
    put(left.own / f"{COPYING}1", "b")
    left.note()
    assert left.recovered() == (["n"], ["n/a"], [])


def test_a_part_of_nobody_knows_what_is_kept(left: Left) -> None:
    put(left.own / f"{COPYING}1", "a")
    assert left.recovered() == ([], [], ["cafe/part-1/a", "cafe/reason.json"])


def test_a_part_of_a_drop_that_is_there_is_deleted(left: Left) -> None:
    put(left.source)
    put(left.own / f"{COPYING}1", "a")
    left.note(moved=False)
    assert left.recovered() == ([], ["m/a"], [])


def test_an_empty_folder_of_nobody_knows_what_is_deleted(left: Left) -> None:
    assert left.recovered() == ([], [], [])


def test_without_a_note_a_drop_keeps_its_name(left: Left) -> None:
    put(left.own / ORIGINAL, "m.gguf")
    assert left.recovered() == (["m.gguf"], ["m.gguf"], [])


def test_parts_are_deleted_everywhere(repository: ModelRepository) -> None:
    for root in (repository.incoming, repository.staging, repository.rejected):
        put(root / f"{COPYING}1")
        put(root / f"{TAKEN}2")
    assert opened(repository.incoming.parent).recover() == []
    for root in (repository.incoming, repository.staging, repository.rejected):
        assert list(root.iterdir()) == []
