"""A dropper who owns his drop swaps its folders for links while it is taken in."""

from __future__ import annotations

import filecmp
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from modelium.analysis.readers.laid import Laid
from modelium.config import Orchestration
from modelium.errors import DropRejected
from modelium.intake.moving import copy
from modelium.intake.removal import remove_quietly
from modelium.intake.repository import ModelRepository


@pytest.fixture
def repository(tmp_path: Path) -> ModelRepository:
    return ModelRepository(
        config=Orchestration(
            model_repository=tmp_path / "repository",
            incoming_directory=tmp_path / "incoming",
            rejected_directory=tmp_path / "rejected",
        )
    )


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A folder that is not the dropper's."""
    made = tmp_path / "secret"
    made.mkdir(mode=0o700)
    (made / "precious").write_text("secret")
    (made / "precious").chmod(0o600)
    return made


@pytest.fixture
def drop(repository: ModelRepository) -> Path:
    """A folder that others may write to: a large file, and a folder."""
    made = repository.incoming / "m"
    (made / "sub").mkdir(parents=True)
    (made / "a-large").write_text("weights")
    (made / "sub" / "precious").write_text("own")
    for place in (made, made / "sub"):
        place.chmod(0o777)
    return made


@pytest.fixture
def held(drop: Path) -> Iterator[int]:
    """The dropper's descriptor of his folder, wherever it is moved to."""
    opened = os.open(drop, os.O_RDONLY | os.O_DIRECTORY)
    yield opened
    os.close(opened)


def swapping(folder: int, name: str, to: Path, swaps: list[bool]) -> Callable[[], None]:
    """Return what swaps ``name`` in ``folder`` for a link, once."""

    def swap() -> None:
        if not swaps:
            swaps.append(False)
            with suppress(FileNotFoundError):  # the folder was deleted by now
                os.rename(name, "aside", src_dir_fd=folder, dst_dir_fd=folder)
                os.symlink(to, name, dir_fd=folder)
                swaps[0] = True

    return swap


def test_a_folder_that_becomes_a_link_during_the_copy_is_not_followed(
    repository: ModelRepository,
    secret: Path,
    drop: Path,
    held: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    swaps: list[bool] = []
    swap, utime = swapping(held, "sub", secret, swaps), os.utime

    def after_a_file(file: int, *, ns: tuple[int, int]) -> None:
        swap()
        utime(file, ns=ns)

    monkeypatch.setattr(os, "utime", after_a_file)
    with pytest.raises(DropRejected) as caught:
        repository.stage(drop, name=None)
    assert swaps == [True]
    assert caught.value.reason == "special-file"
    assert list(repository.staging.iterdir()) == []
    assert (secret / "precious").read_text() == "secret"


def test_a_folder_that_a_copy_is_made_in_is_not_left_through_a_link(
    secret: Path, drop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drop that returns is copied into the drop zone, where others may rename its parts."""
    (drop / "sub" / "new").touch()
    mkdir, zone = os.mkdir, tmp_path / "zone"
    zone.mkdir()

    def swapped(path: str | Path, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        mkdir(path, mode, dir_fd=dir_fd)
        if Path(path).name == "sub":
            (fresh,) = zone.iterdir()
            (fresh / "sub").rename(zone / "aside")
            (fresh / "sub").symlink_to(secret)

    monkeypatch.setattr(os, "mkdir", swapped)
    with pytest.raises(OSError, match="sub"):
        copy(drop, zone / "m")
    assert [path.name for path in secret.iterdir()] == ["precious"]


def test_what_looks_laid_is_removed_only_where_nobody_else_can_swap_it(
    repository: ModelRepository,
    secret: Path,
    drop: Path,
    held: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (drop / "1").mkdir(mode=0o777)
    for place in (drop, drop / "1"):
        (place / "precious").write_text("x")
    Laid(version=1, folder="1").write(drop)
    swaps: list[bool] = []
    swap, samefile = swapping(held, "1", secret, swaps), os.path.samefile

    def after_the_look(one: Path, other: Path) -> bool:
        found = filecmp.cmp(one, other, shallow=False), samefile(one, other)
        swap()
        return any(found)

    monkeypatch.setattr(os.path, "samefile", after_the_look)
    staged = repository.stage(drop, name=None)
    assert swaps == [False]
    assert (secret / "precious").read_text() == "secret"
    assert sorted(path.name for path in staged.folder.iterdir()) == ["a-large", "precious", "sub"]


def test_a_folder_that_becomes_a_link_is_not_opened_up(
    secret: Path, drop: Path, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    swaps: list[bool] = []
    swap, unlink = swapping(held, "sub", secret / "precious", swaps), os.unlink

    def after_a_file(path: str, *, dir_fd: int) -> None:
        unlink(path, dir_fd=dir_fd)
        swap()

    monkeypatch.setattr(os, "unlink", after_a_file)
    remove_quietly(drop)
    assert swaps == [True]
    assert stat.S_IMODE((secret / "precious").stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", ["folder", "file", "archive"])
@pytest.mark.parametrize("at", ["above", "itself"])
def test_a_link_in_the_drop_zone_leads_nowhere(
    repository: ModelRepository, secret: Path, kind: str, at: str
) -> None:
    """The webhook has looked at the path, and the drop waits for its turn: now it is a link."""
    name = {"folder": "m", "file": "m.gguf", "archive": "m.tar"}[kind]
    if kind == "folder":
        (secret / name).mkdir()
    elif kind == "file":
        (secret / name).write_text("secret")
    else:
        with tarfile.open(secret / name, "w") as archive:
            archive.add(secret / "precious", arcname="precious")
    if at == "above":
        (repository.incoming / "up").symlink_to(secret)
    else:
        (repository.incoming / "up").mkdir()
        (repository.incoming / "up" / name).symlink_to(secret / name)
    with pytest.raises(DropRejected) as caught:
        repository.stage(repository.incoming / "up" / name, name=None)
    assert caught.value.reason == "link-outside"
    assert list(repository.staging.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "file", "archive"])
def test_what_lies_deeper_in_the_drop_zone_is_copied(
    repository: ModelRepository, tmp_path: Path, kind: str
) -> None:
    name = {"folder": "m", "file": "m.gguf", "archive": "m.tar"}[kind]
    path = repository.incoming / "up" / name
    path.parent.mkdir()
    if kind == "folder":
        path.mkdir()
        (path / "m.gguf").write_text("x")
    elif kind == "file":
        path.write_text("x")
    else:
        (tmp_path / "m.gguf").write_text("x")
        with tarfile.open(path, "w") as archive:
            archive.add(tmp_path / "m.gguf", arcname="m.gguf")
    (tmp_path / "way").symlink_to(repository.incoming)
    for given in (path, tmp_path / "way" / "up" / name):
        staged = repository.stage(given, name=None)
        assert (staged.name, staged.moved) == ("m", False)
        assert (staged.folder / "m.gguf").read_text() == "x"
        repository.discard(staged)
    assert path.exists()


def test_a_drop_that_becomes_a_link_as_it_is_moved_is_refused(
    repository: ModelRepository, secret: Path, drop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def swapped(source: Path, target: Path) -> None:
        if source == drop and not drop.is_symlink():
            rename(drop, drop.with_name("aside"))
            drop.symlink_to(secret)
        rename(source, target)

    monkeypatch.setattr(os, "rename", swapped)
    with pytest.raises(DropRejected) as caught:
        repository.stage(drop, name=None)
    assert caught.value.reason == "link-outside"
    assert drop.is_symlink()
    assert list(repository.staging.iterdir()) == []
