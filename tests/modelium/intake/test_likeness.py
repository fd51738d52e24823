"""A drop that is replaced while it is taken in: neither the older nor the newer one is lost."""

from __future__ import annotations

import errno
import os
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from modelium.intake.likeness import Replaced, likeness, rename_alike
from modelium.intake.moving import move
from modelium.intake.repository import ModelRepository
from tests.modelium.intake.test_staging import files, opened, put
from tests.modelium.intake.zone import QUIET_S, ManualClock, Zone

RENAME = os.rename
"""As the users of the drop zone call it, whatever a test does to that of Modelium."""


def archive(path: Path, data: str) -> Path:
    packed = put(path.with_name(f"{path.name}-{data}"), "a", data=data)
    with tarfile.open(path, "w") as made:
        made.add(packed / "a", arcname="a")
    return path


def folder(path: Path, data: str) -> Path:
    return put(path, "a", data=data)


def replace(path: Path, newer: Path) -> None:
    """Put ``newer`` at ``path``, as `mv` and a remote copy do."""
    if path.is_dir():
        RENAME(path, path.with_name(f".gone-{path.name}"))
    RENAME(newer, path)


class Hook:
    """Calls `act` once, at the first call of a function of `os` that a test waits for."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, name: str, when: Callable[..., bool]
    ) -> None:
        self.act: list[Callable[[], None]] = []
        real = getattr(os, name)

        def call(*args: object, **given: object) -> object:
            if self.act and when(*args):
                self.act.pop(0)()
            return real(*args, **given)

        monkeypatch.setattr(os, name, call)


def data_in(archive_: Path) -> str:
    if archive_.is_dir():
        return (archive_ / "a").read_text()
    with tarfile.open(archive_) as made:
        member = made.extractfile("a")
        assert member is not None
        return member.read().decode()


def apart(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Have the drop zone on a file system of its own."""
    rename = os.rename

    def guarded(source: Path, target: Path, **given: int) -> None:
        if not given and len({Path(p).relative_to(root).parts[0] for p in (source, target)}) > 1:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(source, target, **given)

    monkeypatch.setattr(os, "rename", guarded)


def takes_in(repository: ModelRepository, drop: Path, *, version: int) -> str:
    staged = repository.stage(drop, name="m")
    return data_in(repository.publish(staged, version=version))


@pytest.mark.parametrize(
    ("make", "name", "several"),
    [(archive, "m.tar", False), (archive, "m.tar", True), (folder, "m", True)],
    ids=["archive", "archive on another file system", "folder on another file system"],
)
async def test_a_drop_that_is_replaced_while_it_is_read_is_the_next_version(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    make: Callable[[Path, str], Path],
    name: str,
    several: bool,
) -> None:
    """What was read becomes the version before, and the watcher reports the newer drop."""
    repository, clock = opened(tmp_path), ManualClock()
    (tmp_path / "users").mkdir()
    drop = repository.incoming / name
    make(tmp_path / "users" / name, "v1").rename(drop)
    newer = make(tmp_path / "users" / f"newer-{name}", "v2")
    zone = Zone(repository.incoming, clock=clock)

    async def reported() -> list[Path]:
        zone.reported.clear()
        zone.watcher.touch(name)
        await zone.watcher.poll()
        clock.now += QUIET_S
        await zone.watcher.poll()
        return zone.reported

    assert await reported() == [drop]
    if several:
        apart(monkeypatch, tmp_path)
    read = Hook(monkeypatch, "fsync", lambda file: ".modelium-copying-" in path_of(file))
    read.act = [lambda: replace(drop, newer)]
    assert takes_in(repository, drop, version=1) == "v1"
    assert data_in(drop) == "v2"
    assert "replaced" in caplog.text
    assert "another user" not in caplog.text
    assert opened(tmp_path).recover() == []
    assert await reported() == [drop]
    assert takes_in(repository, drop, version=2) == "v2"
    assert not drop.exists()
    assert list(repository.staging.iterdir()) == []


def path_of(file: int) -> str:
    return os.readlink(f"/proc/self/fd/{file}")


@pytest.mark.parametrize("make", [archive, folder])
@pytest.mark.parametrize("several", [False, True])
def test_one_that_comes_at_the_last_moment_returns_to_its_place(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path, str], Path],
    several: bool,
) -> None:
    """Between the last look at the drop and the rename, which takes away what is there by then."""
    drop, newer = make(tmp_path / "in" / "m", "v1"), make(tmp_path / "users" / "m", "v2")
    target = tmp_path / "target" / "m"
    target.parent.mkdir()
    like = likeness(drop)
    last = Hook(monkeypatch, "rename", lambda source, to: (source, to.parent) == (drop, place))
    place = drop.parent if several else target.parent
    last.act = [lambda: replace(drop, newer)]
    if several:
        apart(monkeypatch, tmp_path)
    noted: list[bool] = []
    assert move(drop, target, note=noted.append, like=like) is False
    assert noted[-1] is False
    assert data_in(drop) == "v2"
    assert [p.name for p in drop.parent.iterdir() if p.name.startswith(".modelium")] == []
    assert data_in(target) == "v1" if several else not target.exists()


def test_the_newest_of_three_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drop, aside = put(tmp_path, "m", data="v1") / "m", tmp_path / "aside"
    like, lstat = likeness(drop), os.lstat
    put(tmp_path, "newer", data="v2")
    last = Hook(monkeypatch, "rename", lambda source, _to: source == drop)
    last.act = [lambda: replace(drop, tmp_path / "newer")]

    def newest(path: Path) -> os.stat_result:
        if path == drop and aside.exists():
            put(tmp_path, "m", data="v3")
        return lstat(path)

    monkeypatch.setattr(os, "lstat", newest)
    with pytest.raises(Replaced):
        rename_alike(drop, aside, like=like)
    assert files(tmp_path) == ["m"]
    assert drop.read_text() == "v3"


def change_content(drop: Path) -> None:
    (drop / "sub" / "a").write_text("other")


def change_in_place(drop: Path) -> None:
    before = (drop / "sub" / "a").stat().st_mtime_ns
    (drop / "sub" / "a").write_text("y")
    os.utime(drop / "sub" / "a", ns=(before, before + 1))


def replace_file(drop: Path) -> None:
    """By one of the same size and time, as `cp -p` and `rsync` do."""
    info = (drop / "sub" / "a").stat()
    (drop.parent / "b").write_text("y")
    os.utime(drop.parent / "b", ns=(info.st_atime_ns, info.st_mtime_ns))
    os.rename(drop.parent / "b", drop / "sub" / "a")


def add(drop: Path) -> None:
    (drop / "sub" / "b").touch()


def delete(drop: Path) -> None:
    (drop / "sub" / "a").unlink()


def rename_inner(drop: Path) -> None:
    (drop / "sub" / "a").rename(drop / "sub" / "b")


@pytest.mark.parametrize(
    "change", [change_content, change_in_place, replace_file, add, delete, rename_inner]
)
def test_what_changes_a_drop_changes_its_likeness(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    drop = tmp_path / "m"
    put(drop / "sub", "a")
    like = likeness(drop)
    change(drop)
    assert likeness(drop) != like
    with pytest.raises(Replaced):
        rename_alike(drop, tmp_path / "aside", like=like)
    assert not (tmp_path / "aside").exists()


def test_reading_and_renaming_a_drop_do_not_change_it(tmp_path: Path) -> None:
    drop = put(tmp_path / "m", "a", "sub/b")
    (drop / "link").symlink_to("nowhere")
    like = likeness(drop)
    assert (drop / "sub" / "b").read_text() == "x"
    rename_alike(drop, tmp_path / "aside", like=like)
    assert likeness(tmp_path / "aside") == like
    assert likeness(drop) == frozenset()
    with suppress(FileNotFoundError):
        rename_alike(drop, tmp_path / "again", like=frozenset())
    assert not (tmp_path / "again").exists()
